"""Traces of this process: sampling, the buffer of spans, and their export by OTLP over HTTP (extra `otel`).

One thread sends. Spans of messages wait in memory and are sent at most once. Spans of workflows wait in the file of
their engine and are sent at least once, with equal bytes each time.
"""

from __future__ import annotations

import gzip
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from bridge.system.spans import SCOPE, export_request

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler

log = structlog.get_logger("bridge.tracing")

BATCH = 2048
"""Spans of messages in one request."""

BATCH_BYTES = 1024 * 1024
"""Bytes of spans of workflows in one request, as far as rows are not larger."""

DELAY = 1.0
"""Seconds between two exports of few spans."""

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts while the receiver is away."""

_RETRIED = frozenset({401, 403, 404, 407, 408, 425, 429})
"""Status codes below 500 that a change of the receiver or of the settings can end."""


class ReceiverAway(Exception):
    """Raised when the receiver does not take spans now. The spans are sent again."""


class SpansRefused(Exception):
    """Raised when the receiver will never take these spans."""


class SpanStore(Protocol):
    """Spans that an engine keeps until they are sent.

    waiting_bytes: size of the kept spans.
    dropped: spans that were dropped, by reason.
    """

    @property
    def waiting_bytes(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...

    def read(self, after: int, limit: int) -> tuple[int, int, bytes]:
        """Last position, number of spans, and about `limit` bytes of spans behind a position; the position itself when
        there are none. Raises: OSError when the engine is closed or cannot be read.
        """
        ...

    def confirm(self, position: int) -> None:
        """Delete the spans up to a position, because they were sent."""
        ...

    def expire(self, seconds: float) -> None:
        """Drop the spans that are older."""
        ...


class OtlpClient:
    """Client of a receiver of OTLP over HTTP. The library's exporter cannot send spans that are encoded already.

    verify: False, or the file with the certificate authorities. certificate: files of a client certificate and its key.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        timeout: float,
        *,
        compress: bool = False,
        verify: str | bool = True,
        certificate: tuple[str, str] | str | None = None,
    ) -> None:
        import requests

        self.endpoint = endpoint
        self._timeout = timeout
        self._compress = compress
        self._errors = requests.RequestException
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/x-protobuf", **headers})
        if compress:
            self._session.headers["Content-Encoding"] = "gzip"
        self._session.verify = verify
        self._session.cert = certificate

    def send(self, request: bytes, timeout: float | None = None) -> int:
        """Send one request; return the number of spans that the receiver rejected.

        Raises: ReceiverAway, SpansRefused.
        """
        body = gzip.compress(request, 1) if self._compress else request
        try:
            answer = self._session.post(self.endpoint, data=body, timeout=min(timeout or self._timeout, self._timeout))
        except self._errors as error:
            # Its text may contain credentials of the URL
            raise ReceiverAway(type(error).__name__) from None
        if answer.ok:
            return _rejected(answer.content)
        if answer.status_code in _RETRIED or answer.status_code >= 500:
            raise ReceiverAway(f"HTTP status {answer.status_code}")
        raise SpansRefused(f"HTTP status {answer.status_code}")

    @property
    def shown(self) -> str:
        """Endpoint without credentials and query."""
        return self.endpoint.partition("?")[0].rpartition("@")[2]

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _rejected(body: bytes) -> int:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans) if body else 0
    except DecodeError:
        return 0


class Tracing:
    """Tracer of this process.

    sampler: of the SDK; asked once for each trace that begins here.
    max_buffered: most spans in memory.
    max_age: seconds for which engines keep spans that cannot be sent.
    """

    def __init__(
        self,
        receiver: OtlpClient,
        sampler: Sampler,
        resource: Resource,
        version: str,
        *,
        max_buffered: int,
        max_age: float,
        delay: float = DELAY,
    ) -> None:
        self.sampler = sampler
        self.resource = resource
        self.dropped: Counter[str] = Counter()
        """Spans that were never sent, by reason: `buffer`, `refused`."""
        self.sent = 0
        self.away: str | None = None
        """Reason why the receiver takes no spans; None while it does."""
        self._receiver = receiver
        self._version = version
        self._resource = _encoded(resource)
        self._max_buffered = max_buffered
        self._max_age = max_age
        self._delay = delay
        self._buffer: deque[bytes] = deque()
        self._stores: list[SpanStore] = []
        self._read: dict[int, int] = {}
        """Position up to which spans of a store were sent, by index of the store."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._failures = 0
        self._thread: threading.Thread | None = None
        # Imported here, because traces are optional
        from opentelemetry.sdk.trace.sampling import Decision

        self._sampled = Decision.RECORD_AND_SAMPLE
        described = sampler.get_description()
        self._follows = described.startswith("ParentBased{") and all(
            part in described for part in ("remoteParentSampled:AlwaysOnSampler", "remoteParentNotSampled:AlwaysOff")
        )

    @property
    def endpoint(self) -> str:
        """URL of the receiver."""
        return self._receiver.endpoint

    # -- decisions

    def samples(self, trace_id: str, parent: str | None, name: str) -> bool:
        """Decide whether a span is sampled. parent: valid `traceparent` of its trace; None when it begins one."""
        if parent is not None and self._follows:
            return int(parent[53:55], 16) & 1 == 1
        context = None
        if parent is not None:
            from bridge.system.otel_context import remote

            context = remote(parent)
        return self.sampler.should_sample(context, int(trace_id, 16), name).decision is self._sampled

    # -- spans

    @property
    def waiting(self) -> Mapping[str, int]:
        """Spans in memory, and bytes of spans in files of engines."""
        return {"memory": len(self._buffer), "engine": sum(store.waiting_bytes for store in self._stores)}

    @property
    def losses(self) -> Mapping[str, int]:
        """Spans that were dropped, by reason."""
        found = Counter(self.dropped)
        for store in self._stores:
            found.update(store.dropped)
        return found

    def emit(self, span: bytes) -> None:
        """Take a span of `bridge.system.spans`. Callable from any thread; never blocks."""
        buffer = self._buffer
        waiting = len(buffer)
        if waiting >= self._max_buffered:
            self.dropped["buffer"] += 1
            return
        buffer.append(span)
        if waiting == BATCH:
            self._wake.set()

    def add_store(self, store: SpanStore) -> None:
        """Send the spans of an engine."""
        self._stores.append(store)

    def install_provider(self) -> Callable[[], Any]:
        """Let other spans of this process be sent too: of the SDK on the scheduler, and of instrumented user code.

        Without effect where the program has a provider of its own. Returns the function that flushes and stops it.
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return lambda: None
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            # The bridge itself says once that the receiver is away
            logging.getLogger(name).setLevel(logging.CRITICAL)
        provider = TracerProvider(sampler=self.sampler, resource=self.resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=self._receiver.endpoint)))
        trace.set_tracer_provider(provider)
        return provider.shutdown

    # -- sending

    def start(self) -> None:
        """Start to send."""
        self._thread = threading.Thread(target=self._run, name="bridge-tracing", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send what can be sent at once, and stop. Spans of workflows stay in their files. Idempotent."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._wake.set()
        if thread is not None:
            thread.join(timeout)
            self._receiver.close()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._delay)
            self._wake.clear()
            last = self._stopping.is_set()
            try:
                self._send_all(1.0 if last else None)
            except Exception:
                log.exception("spans could not be sent", action="tracing")
                self._failures += 1
            if last:
                return
            if self._failures:
                self._stopping.wait(PAUSES[min(self._failures, len(PAUSES)) - 1])

    def _send_all(self, timeout: float | None) -> None:
        for store in self._stores:
            store.expire(self._max_age)
        try:
            while self._buffer:
                self._send_buffer(timeout)
            for index, store in enumerate(self._stores):
                while self._send_stored(index, store, timeout):
                    pass
        except ReceiverAway as error:
            self._failures += 1
            if self.away is None:
                log.warning(
                    f"traces cannot be sent to {self._receiver.shown}: {error}. Work goes on; spans wait, and are "
                    "dropped beyond their limits",
                    action="tracing",
                )
            self.away = str(error)

    def _send_buffer(self, timeout: float | None) -> None:
        batch = list(islice(self._buffer, BATCH))
        self._send(b"".join(batch), len(batch), timeout)
        for _ in batch:
            self._buffer.popleft()

    def _send_stored(self, index: int, store: SpanStore, timeout: float | None) -> bool:
        after = self._read.get(index, 0)
        try:
            position, number, spans = store.read(after, BATCH_BYTES)
        except OSError:
            return False
        if position == after:
            return False
        self._send(spans, number, timeout)
        self._read[index] = position
        store.confirm(position)
        return True

    def _send(self, spans: bytes, number: int, timeout: float | None) -> None:
        """Send spans, or count them as refused. Raises: ReceiverAway."""
        rejected = 0
        try:
            rejected = self._receiver.send(export_request(self._resource, self._version, spans), timeout)
        except SpansRefused as error:
            rejected = number
            if not self.dropped["refused"]:
                log.error(f"{self._receiver.shown} refuses spans: {error}", action="tracing")
        self.dropped["refused"] += rejected
        self.sent += number - rejected
        self._failures = 0
        if self.away is not None:
            self.away = None
            log.info(f"traces are sent to {self._receiver.shown} again", action="tracing")


def _encoded(resource: Resource) -> bytes:
    """Resource in the protocol's form; equal attributes have equal bytes."""
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource as Message

    pairs = sorted((key, str(value)) for key, value in resource.attributes.items())
    message = Message(attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in pairs])
    return bytes(message.SerializeToString(deterministic=True))


# Settings


def wanted(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """URL of the receiver of traces; None when neither the settings nor the environment name one, or traces are off."""
    return None if is_disabled(environment) else url_of("traces", endpoint, environment)


def url_of(signal: str, endpoint: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """URL of the receiver of a signal (`traces`, `metrics`), by its base URL or by the environment."""
    if endpoint is None:
        if full := environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip():
            return full
        endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return f"{endpoint.rstrip('/')}/v1/{signal}" if endpoint else None


def is_disabled(environment: Mapping[str, str] = os.environ) -> bool:
    """True when the environment turns traces off, or names an exporter other than OTLP."""
    return is_sdk_disabled(environment) or environment.get("OTEL_TRACES_EXPORTER", "").strip() not in ("otlp", "")


def is_sdk_disabled(environment: Mapping[str, str]) -> bool:
    """True when the environment turns all of OpenTelemetry off."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def build_receiver(signal: str, url: str, environment: Mapping[str, str] = os.environ) -> OtlpClient:
    """Create the receiver of a signal. Raises: ModuleNotFoundError without the extra."""
    from opentelemetry.util.re import parse_env_headers

    def read(name: str) -> str:
        for key in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            if value := environment.get(key, "").strip():
                return value
        return ""

    key, certificate = read("CLIENT_KEY"), read("CLIENT_CERTIFICATE")
    return OtlpClient(
        url,
        parse_env_headers(read("HEADERS"), liberal=True),
        _seconds(read("TIMEOUT")),
        compress=read("COMPRESSION").lower() == "gzip",
        verify=read("CERTIFICATE") or True,
        certificate=(certificate, key) if certificate and key else certificate or None,
    )


def build_resource(version: str) -> Resource:
    """Resource of this process: of the environment, with a default name. Raises: ModuleNotFoundError."""
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.version": version})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SCOPE}))
    return resource


def build(endpoint: str, sample: float | None, version: str, *, max_buffered: int, max_age: float) -> Tracing:
    """Create the tracer. endpoint: URL of the receiver. Raises: ModuleNotFoundError without the extra."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    resource = build_resource(version)
    # A provider reads OTEL_TRACES_SAMPLER, and has no other effect
    sampler = TracerProvider(resource=resource).sampler if sample is None else ParentBasedTraceIdRatio(sample)
    receiver = build_receiver("traces", endpoint)
    return Tracing(receiver, sampler, resource, version, max_buffered=max_buffered, max_age=max_age, delay=DELAY)


def _seconds(text: str) -> float:
    try:
        return max(0.1, float(text))
    except ValueError:
        return 10.0
