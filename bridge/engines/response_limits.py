"""Limits on the responses of a remote engine, which may be broken or hostile.

gRPC refuses a single response that is too large before it is read. A response in several parts (the pages of a query,
the chunks of a history) is limited in total, because the SDK's client collects all parts before it returns.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
from durabletask.azuremanaged.client import AsyncDurableTaskSchedulerClient
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


class Receipt:
    """Response in several parts that is being received. keeps: its parts are collected."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.began = time.monotonic()
        self.size = 0
        self.limits: ResponseLimits | None = None

    def release(self) -> None:
        if self.limits is not None:
            self.limits.held -= self.size
            self.size = 0


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


class LimitedClient(AsyncDurableTaskSchedulerClient):
    """Client of the SDK whose collecting calls count each as one response."""

    async def get_orchestration_history(self, *args: Any, **named: Any) -> Any:
        with one_response():
            return await super().get_orchestration_history(*args, **named)

    async def get_all_orchestration_states(self, *args: Any, **named: Any) -> Any:
        with one_response():
            return await super().get_all_orchestration_states(*args, **named)

    async def get_all_entities(self, *args: Any, **named: Any) -> Any:
        with one_response():
            return await super().get_all_entities(*args, **named)

    async def clean_entity_storage(self, *args: Any, **named: Any) -> Any:
        with one_response(keeps=False):
            return await super().clean_entity_storage(*args, **named)


class ResponseLimits(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that refuses responses that are too large, endless, or about another instance."""

    def __init__(self, engine: str, max_answer: int, timeout: float) -> None:
        """Create the interceptor. max_answer: bytes of a single response. timeout: deadline of a call in seconds."""
        self._engine = engine
        self._max_answer = max_answer
        self._seconds = timeout * DEADLINES
        self.held = 0
        """Bytes of all responses in parts that are being received."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        try:
            response = await call
        except grpc.RpcError as error:
            method = client_call_details.method
            raise (
                self._refusal(error, method if isinstance(method, str) else method.decode(), request) or error
            ) from None
        self._check_subject(request, response)
        self._count(response)
        return call

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._parts(await continuation(client_call_details, request))

    async def _parts(self, call: Any) -> AsyncIterator[Any]:
        try:
            async for part in call:
                self._count(part)
                yield part
        except grpc.RpcError as error:
            raise self._refusal(error, "/StreamInstanceHistory", None) or error from None
        finally:
            call.cancel()

    def _refusal(self, error: BaseException, method: str, request: Any) -> EngineError | None:
        """Error for a response that gRPC refused as too large; None for any other error."""
        if status_of(error) is not grpc.StatusCode.RESOURCE_EXHAUSTED or _TOO_LARGE not in details_of(error).lower():
            return None
        name = method.rpartition("/")[2]
        if name not in _LARGE or (isinstance(request, pb.GetInstanceRequest) and not request.getInputsAndOutputs):
            return EngineUnavailable(
                f"engine {self._engine!r} does not speak the protocol: its response to {name} is too large"
            )
        return EngineRejected(
            f"engine {self._engine!r}: a response to {name} is larger than the {self._max_answer} bytes of `max_answer`"
        )

    def _check_subject(self, request: Any, response: Any) -> None:
        """Compare the ids of request and response. Raises: EngineUnavailable."""
        wanted = answered = ""
        if isinstance(response, pb.GetInstanceResponse) and response.exists:
            wanted, answered = request.instanceId, response.orchestrationState.instanceId
        elif isinstance(response, pb.CreateInstanceResponse):
            wanted, answered = request.instanceId, response.instanceId
        elif isinstance(response, pb.GetEntityResponse) and response.exists:
            wanted, answered = request.instanceId.lower(), response.entity.instanceId.lower()
        if wanted and answered and wanted != answered:
            raise EngineUnavailable(
                f"engine {self._engine!r} does not speak the protocol: it answers about another instance"
            )

    def _count(self, part: Any) -> None:
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
        size = part.ByteSize() + items * ITEM + PART
        receipt.limits = self
        receipt.size += size
        self.held += size
        total = self._max_answer * TOTAL
        if self.held <= total:
            return
        if receipt.size > total and isinstance(part, pb.HistoryChunk):
            # The instance is the cause, which a repetition does not change
            raise EngineRejected(
                f"engine {self._engine!r}: a history is larger than {total} bytes ({TOTAL} x `max_answer`)"
            )
        raise EngineUnavailable(
            f"engine {self._engine!r}: responses in parts exceed {total} bytes ({TOTAL} x `max_answer`) together"
        )
