"""Calls of an engine's client, their errors in the bridge's words, and questions about one instance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from durabletask.client import OrchestrationState
from durabletask.history import EventRaisedEvent, ExecutionStartedEvent

from bridge.deduplication import REMEMBERED, DeduplicationWindow
from bridge.engines.base import Engine
from bridge.engines.errors import QUESTIONS, status_of, translate
from bridge.errors import EngineError, EngineOutage, EngineRejected, EngineUnavailable, InstanceNotFound
from bridge.instance_protocol import FINISHED, InstanceState, restart_of, started_by
from bridge.origin import MessageOrigin, Unwrapped, read_origin, unwrap


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """status: for a person. started_by_it: known only when the look was with the start input."""

    life: InstanceState
    status: str = ""
    started_by_it: bool = False


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """The last run of a finished instance.

    held: it had the command that was searched for. restarted: it, or one before it, ran because of that command.
    start: its input. inbox: what a new run has to remember.
    """

    held: bool
    restarted: bool
    orchestration: str
    version: str | None
    tags: Mapping[str, str]
    start: Unwrapped
    inbox: Mapping[str, Any]


class InstanceReader:
    """Asks one engine. Raises EngineError; what is none is a bug and goes on as it is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def look(self, what: str, instance_id: str, origin: MessageOrigin | None, *, start: bool) -> InstanceSnapshot:
        """The instance now. start: with its start input, to see whether `origin` started it."""
        state = await self._state(what, instance_id, start)
        if state is None:
            return InstanceSnapshot(InstanceState.MISSING)
        life = InstanceState.FINISHED if state.runtime_status.name in FINISHED else InstanceState.RUNNING
        text = state.serialized_input if start else None
        return InstanceSnapshot(life, state.runtime_status.name, bool(text) and started_by(read_origin(text), origin))

    async def search(
        self, what: str, instance_id: str, origin: MessageOrigin | None, event: tuple[str, Any] | None
    ) -> PreviousRun | None:
        """What the history of a finished instance tells; None when the instance is gone.

        event: name and data; without an origin nothing else tells whether it was seen.
        """
        client = self._engine.client
        try:
            history = await self.call(what, None, lambda: client.get_orchestration_history(instance_id))
        except InstanceNotFound:
            return None
        started = next((each for each in history if isinstance(each, ExecutionStartedEvent)), None)
        if started is None:
            return None
        start = _start(what, started.input)
        carried = start.inbox or {}
        limit = int(carried.get("remember", REMEMBERED))
        seen = DeduplicationWindow(str(carried.get("seen", "")), limit)
        raised = [each for each in history if isinstance(each, EventRaisedEvent)]
        # The start comes last: whoever replaces this run must remember it, however many messages have come since
        messages = [*(read_origin(each.input) for each in raised), start]
        held = started_by(start, origin)
        restarted = origin is not None and started_by(start, restart_of(origin))
        if origin is None and event is not None:
            name, data = event
            held = any(each.name == name and _same(each.input, data) for each in raised)
        for message in messages:
            if message.origin is not None:
                seen.add(message.origin.key)
                held = held or (origin is not None and message.origin.key == origin.key)
        inbox = {"seen": seen.text(), "remember": limit}
        return PreviousRun(held, restarted, started.name, started.version or None, started.tags or {}, start, inbox)

    async def call(self, what: str, instance_id: str | None, call: Callable[[], Awaitable[Any]]) -> Any:
        """One call. With an `instance_id`, an answer that says nothing is followed by a question."""
        try:
            return await call()
        except (Exception, asyncio.CancelledError) as error:
            if instance_id is not None and status_of(error) in QUESTIONS:
                await self.ask(what, instance_id, None, self.translate(error, what))
            # Not by a local name: an error whose traceback leads to itself keeps the payloads of its frames
            raise self.translate(error, what) from error

    async def ask(
        self, what: str, instance_id: str, origin: MessageOrigin | None, cause: EngineError
    ) -> InstanceSnapshot:
        """The instance after a call of unknown outcome.

        An engine that cannot answer this either is out of order, whatever it said of the call: raises EngineOutage.
        """
        try:
            return await self.look(what, instance_id, origin, start=True)
        except EngineOutage:
            raise
        except EngineError as error:
            raise EngineUnavailable(f"{what}: the engine answers nothing useful ({cause})") from error

    def translate(self, error: BaseException, what: str) -> EngineError:
        """What a call raised. Raises: the error itself when this task was cancelled, or when it is a bug."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise error
            # gRPC says so when the channel was closed under the call.
            return EngineUnavailable(f"{what}: the connection to the engine was closed")
        return translate(error, what=what)

    async def _state(self, what: str, instance_id: str, payloads: bool) -> OrchestrationState | None:
        client = self._engine.client
        try:
            state: OrchestrationState | None = await self.call(
                what, None, lambda: client.get_orchestration_state(instance_id, fetch_payloads=payloads)
            )
        except InstanceNotFound:
            return None
        return state


def _start(what: str, text: str | None) -> Unwrapped:
    try:
        return unwrap(json.loads(text)) if text else Unwrapped(None)
    except ValueError as error:
        raise EngineRejected(f"{what}: the input of the finished instance cannot be read") from error


def _same(serialized: str | None, data: Any) -> bool:
    """Whether a bare event carries this data. Both are compared as JSON, as engines may write it anew."""
    if not serialized:
        return data is None
    try:
        return bool(json.loads(serialized) == json.loads(json.dumps(data)))
    except (ValueError, TypeError):
        return False
