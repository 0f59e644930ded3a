"""Receiver of OTLP over HTTP in a thread of the test. OpenTelemetry's own classes decode what it keeps."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Key = tuple[str, str]
"""Trace id and span id."""


class OtlpReceiver:
    """Receiver. Use it as a context manager; `url` is for OTEL_EXPORTER_OTLP_ENDPOINT.

    contents: distinct encodings of each span, by its ids: one where a receiver finds one content per id.
    status: answer to the next requests; they are kept only when it is 200.
    loses_answers: keep spans and close the connection instead of answering.
    """

    def __init__(self, port: int = 0) -> None:
        self.contents: dict[Key, set[bytes]] = defaultdict(set)
        self.arrivals = 0
        self.resources: list[dict[str, str]] = []
        self.metrics: dict[str, Any] = {}
        self.requests = 0
        self.status = 200
        self.loses_answers = False
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with receiver._lock:
                    receiver.requests += 1
                    if receiver.status == 200:
                        receiver._take(self.path, body)
                if receiver.loses_answers:
                    self.close_connection = True
                    return
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
                pass

        return Handler

    def _take(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update({metric.name: metric for metric in scope.metrics})
            return
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            for scope in resource.scope_spans:
                for span in scope.spans:
                    key = (span.trace_id.hex(), span.span_id.hex())
                    self.contents[key].add(span.SerializeToString(deterministic=True))
                    self.arrivals += 1

    def spans(self) -> list[Span]:
        """One span per id, in the order of arrival."""
        with self._lock:
            return [Span.FromString(min(contents)) for contents in self.contents.values()]

    def named(self, name: str) -> list[Span]:
        """Spans of a name."""
        return [span for span in self.spans() if span.name == name]

    def find(self, name: str) -> Span:
        """The only span of a name."""
        [span] = self.named(name)
        return span


def attributes(span: Any) -> Mapping[str, str | int]:
    """Attributes of a span as a dict."""
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


def tree(spans: list[Span]) -> dict[str, list[str]]:
    """Names of the children of each span, by the span's name; roots below the name of none. Sorted."""
    names = {span.span_id: span.name for span in spans}
    found: dict[str, list[str]] = defaultdict(list)
    for span in spans:
        found[names.get(span.parent_span_id, span.parent_span_id.hex())].append(span.name)
    return {name: sorted(children) for name, children in found.items()}
