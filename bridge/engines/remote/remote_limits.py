"""Limits on what a remote engine sends, which may be broken or hostile: responses to calls, and work items.

gRPC refuses a single response that is too large before it is read. A response in several parts (the pages of a query,
the chunks of a history) is limited in total, because the SDK's client collects all parts before it returns. The SDK's
worker queues as many work items as the engine sends; `WorkItemFlow` reads them only as fast as they are worked off.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineError, EngineRejected, EngineUnavailable
from bridge.engines.errors import details_of, status_of

TOTAL = 8
"""Number of largest single responses that all responses in parts may hold together, while they are received."""
ITEM = 512
"""Bytes that count for each item of a response beside its payload: objects of Python are larger than their encoding."""
PART = 4096
"""Bytes that count for each part, so that the number of empty parts is limited too."""
DEADLINES = 30
"""Number of call deadlines within which a response in parts must be complete."""
ACKNOWLEDGEMENT = 64 * 1024
"""Bytes of a response that carries no payload."""

_SERVICE = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"]
_LARGE = frozenset(
    {
        "GetInstance", "WaitForInstanceStart", "WaitForInstanceCompletion", "QueryInstances", "ListInstanceIds",
        "StreamInstanceHistory", "GetEntity", "QueryEntities", "GetWorkItems",
    }
)  # fmt: skip
"""Methods whose responses carry payloads, or many items."""
_TOO_LARGE = "received message larger than max"

PAUSE = 1.0
"""Seconds within which a worker opens at most `BURST` streams: the SDK reopens a closed one at once."""
BURST = 5
_CHECK_SECONDS = 0.25
"""Seconds after which a waiting reader checks its stream again, which may have been cancelled."""


class HeldBytes:
    """Bytes of all responses in parts that a client is receiving."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, size: int) -> None:
        self.total += size


class Receipt:
    """Response in several parts that is being received. keeps: its parts are collected."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.began = time.monotonic()
        self.size = 0
        self._held: HeldBytes | None = None

    def add(self, size: int, held: HeldBytes) -> None:
        """Add a part. held: bytes of all responses of the client, which this one counts in until its release."""
        self._held = held
        self.size += size
        held.add(size)

    def release(self) -> None:
        if self._held is not None:
            self._held.add(-self.size)
            self._held = None


_RECEIPT: ContextVar[Receipt | None] = ContextVar("bridge_response_receipt", default=None)


@contextmanager
def one_response(*, keeps: bool = True) -> Iterator[None]:
    """Count all responses that arrive inside the block as parts of one. keeps: the parts are collected in memory."""
    receipt = Receipt(keeps)
    token = _RECEIPT.set(receipt)
    try:
        yield
    except BaseException as error:
        # The frames of the SDK hold the parts, and a cycle of gRPC's tasks would keep them until a collection
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        _RECEIPT.reset(token)
        receipt.release()


def size_options(max_answer: int) -> list[tuple[str, Any]]:
    """Channel options that limit single responses. max_answer: bytes of a response with payloads."""
    service = _SERVICE.full_name
    small = [{"service": service, "method": each.name} for each in _SERVICE.methods if each.name not in _LARGE]
    limit = {"name": small, "maxResponseMessageBytes": min(ACKNOWLEDGEMENT, max_answer)}
    return [("grpc.service_config", json.dumps({"methodConfig": [limit]}))]


_SUBJECTS: Mapping[str, Callable[[Any, Any], tuple[str, str]]] = {
    "GetInstance": lambda request, response: (
        request.instanceId,
        response.orchestrationState.instanceId if response.exists else "",
    ),
    "StartInstance": lambda request, response: (request.instanceId, response.instanceId),
    "GetEntity": lambda request, response: (
        request.instanceId.lower(),
        response.entity.instanceId.lower() if response.exists else "",
    ),
}
"""Id in the request and id in the response, empty without one, by the name of the method."""


class ResponseLimits:
    """Limits of the responses to a client: refused are those that are too large, endless, or about another instance."""

    def __init__(self, engine: str, max_answer: int, timeout: float) -> None:
        """Create the limits.

        max_answer: bytes of a single response.
        timeout: deadline of a call in seconds.
        """
        self._engine = engine
        self._max_answer = max_answer
        self._seconds = timeout * DEADLINES
        self._held = HeldBytes()

    def check(self, name: str, request: Any, response: Any) -> None:
        """Check a response to the method of this name. Raises: EngineRejected, EngineUnavailable."""
        subject = _SUBJECTS.get(name)
        # A response that cannot be parsed is None
        if subject is not None and response is not None:
            wanted, answered = subject(request, response)
            if wanted != answered and wanted and answered:
                raise EngineUnavailable(
                    f"engine {self._engine!r} does not speak the protocol: it answers about another instance"
                )
        self.count(response)

    def refusal(self, name: str, request: Any, error: BaseException) -> EngineError | None:
        """Error for a response that gRPC refused as too large; None for any other error."""
        if status_of(error) is not grpc.StatusCode.RESOURCE_EXHAUSTED or _TOO_LARGE not in details_of(error).lower():
            return None
        if name not in _LARGE or (isinstance(request, pb.GetInstanceRequest) and not request.getInputsAndOutputs):
            return EngineUnavailable(
                f"engine {self._engine!r} does not speak the protocol: its response to {name} is too large"
            )
        return EngineRejected(
            f"engine {self._engine!r}: a response to {name} is larger than the {self._max_answer} bytes of `max_answer`"
        )

    def count(self, part: Any) -> None:
        """Add a part to its response. Raises: EngineRejected, EngineUnavailable."""
        receipt = _RECEIPT.get()
        if receipt is None or part is None:
            return
        if time.monotonic() - receipt.began > self._seconds:
            raise EngineUnavailable(
                f"engine {self._engine!r}: a response in parts has no end after {self._seconds:g} s"
            )
        if not receipt.keeps:
            return
        items = sum(len(values) for field, values in part.ListFields() if field.is_repeated)
        receipt.add(part.ByteSize() + items * ITEM + PART, self._held)
        total = self._max_answer * TOTAL
        if self._held.total <= total:
            return
        if receipt.size > total and isinstance(part, pb.HistoryChunk):
            # The instance is the cause, which a repetition does not change
            raise EngineRejected(
                f"engine {self._engine!r}: a history is larger than {total} bytes ({TOTAL} x `max_answer`)"
            )
        raise EngineUnavailable(
            f"engine {self._engine!r}: responses in parts exceed {total} bytes ({TOTAL} x `max_answer`) together"
        )


class WorkItemFlow(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that reads no further work item while those in progress hold `size` bytes. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queued = 0
        self._working = 0
        self._changed = threading.Condition()
        self._stream: object = None
        self._opened: deque[float] = deque(maxlen=BURST)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if not client_call_details.method.endswith("/GetWorkItems"):
            return continuation(client_call_details, request)
        self.pause()
        stream = _WorkItems(continuation(client_call_details, request), self)
        with self._changed:
            # The SDK drops what the queue of an earlier stream holds
            self._stream, self._queued = stream, 0
        return stream

    def pause(self) -> None:
        """Wait before another stream is opened, when many were opened lately."""
        if len(self._opened) == BURST:
            time.sleep(max(0.0, self._opened[0] + PAUSE - time.monotonic()))
        self._opened.append(time.monotonic())

    def read(self, stream: object, item: Any) -> None:
        """Count an item that was read from a stream."""
        kind = item.WhichOneof("request")
        with self._changed:
            if stream is self._stream and kind is not None:
                self._queued += getattr(item, kind).ByteSize()

    def begin(self, request: Any) -> Callable[[], None]:
        """Count an item that the worker takes from its queue; return a function to call when it is done."""
        size = request.ByteSize()
        with self._changed:
            self._queued = max(0, self._queued - size)
            self._working += size
        return partial(self._done, size)

    def _done(self, size: int) -> None:
        with self._changed:
            self._working -= size
            self._changed.notify_all()

    def wait(self, is_active: Callable[[], bool]) -> None:
        """Wait until there is room for another item, or until the stream is no longer active."""
        if self._queued + self._working < self._size:
            return
        with self._changed:
            while self._queued + self._working >= self._size and is_active():
                self._changed.wait(_CHECK_SECONDS)


class _WorkItems:
    """Stream of work items."""

    def __init__(self, call: Any, flow: WorkItemFlow) -> None:
        self._call = call
        self._flow = flow

    def __iter__(self) -> Iterator[Any]:
        for item in self._call:
            self._flow.read(self, item)
            yield item
            self._flow.wait(self._call.is_active)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
