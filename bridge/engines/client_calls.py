"""Calls of the SDK's client: translated errors, durations, and large payloads in the place of their references."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationState
from durabletask.payload import PayloadStore
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from bridge.core.errors import EngineError
from bridge.core.histogram import SECONDS, Histogram
from bridge.engines.errors import translate
from bridge.engines.payloads.large_payloads import ClientPayloads
from bridge.engines.remote.capabilities import ALL, Capability
from bridge.engines.sdk_internals import stores_payloads

T = TypeVar("T")


class ClientCalls:
    """Calls of the SDK's client, with translated errors and large payloads."""

    def __init__(self, sdk: AsyncTaskHubGrpcClient, payloads: PayloadStore | None = None) -> None:
        """Wrap a client of the SDK. `close` closes it.

        payloads: store of large payloads; the client's converter is then a `ClientConverter`.
        """
        self._sdk = sdk
        self._stores_payloads = stores_payloads(sdk)
        self._payloads = None if payloads is None else ClientPayloads(payloads)
        self.requests: dict[tuple[str, str], Histogram] = {}
        """Durations of requests by command and result: `ok`, or the reason of the error."""
        self.lacking = ALL
        """Capabilities that the engine does not have, as far as `learn` has found out."""

    async def _call(self, command: str, call: Coroutine[Any, Any, T], what: str) -> T:
        """Await a call of the SDK's client, and count it. what: the call, for the error.

        gRPC cancels a call whose channel was closed: such a call raises EngineUnavailable, while the cancellation of
        this task passes. Raises: EngineError.
        """
        began = time.perf_counter()
        result = "cancelled"
        try:
            answer = await call
            result = "ok"
            return answer
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, EngineError):
                result = error.reason
                raise
            translated = translate(error, what=what)
            result = translated.reason
            try:
                raise translated from error
            finally:
                del translated  # in a cycle with its own traceback it would live until the garbage collector runs
        finally:
            histogram = self.requests.get((command, result))
            if histogram is None:
                histogram = self.requests[command, result] = Histogram(SECONDS)
            histogram.observe(time.perf_counter() - began)

    async def _restore(self, message: Message) -> None:
        """Put the large payloads of a message in the place of their references. Raises: EngineError."""
        if self._payloads is not None:
            await self._payloads.restore(message)

    async def _stored(self, value: Any, target_id: str | None) -> Any:
        """Value to send to the instance or entity. Raises: TypeError, EngineError."""
        return value if self._payloads is None else await self._payloads.stored(value, target_id)

    async def _restored(self, answer: Coroutine[Any, Any, OrchestrationState | None]) -> OrchestrationState | None:
        """State of an instance with its large payloads. Raises: EngineError."""
        state = await answer
        return state if state is None or self._payloads is None else await self._payloads.restored(state)

    @property
    def sdk(self) -> AsyncTaskHubGrpcClient:
        """Client of the SDK, for a client that answers some calls itself."""
        return self._sdk

    async def close(self) -> None:
        await self._sdk.close()

    def _has_entities(self) -> bool:
        return Capability.ENTITIES not in self.lacking


def has_more(token: StringValue, former: StringValue | None) -> bool:
    """True when a page has a successor. As in the SDK, "0" ends the pages, and so does a token that repeats."""
    return token.value not in ("", "0", "" if former is None else former.value)
