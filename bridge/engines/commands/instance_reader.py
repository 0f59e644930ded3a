"""Reads of one instance through an engine's client: its state, its last run, and answers of unknown outcome."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from durabletask.history import EventRaisedEvent, ExecutionStartedEvent

from bridge.core.deduplication import REMEMBERED, DeduplicationWindow
from bridge.core.errors import EngineError, EngineOutage, EngineRejected, EngineUnavailable, InstanceNotFound
from bridge.core.instance_protocol import FINISHED, InstanceState, origin_of_start, started_by
from bridge.core.origin import MessageOrigin, Unwrapped, read_origin, unwrap
from bridge.engines.base import Engine
from bridge.engines.errors import leaves_outcome_unknown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """State of an instance at one time.

    status: name of the runtime status, for people.
    started_by_command: True when the given message started the instance; known only when the start input was read.
    """

    state: InstanceState
    status: str = ""
    started_by_command: bool = False


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """Last run of a finished instance.

    has_received: True when the run received the command that was searched for.
    restarted: True when the run, or one before it, was started because of that command.
    start: its input.
    inbox: deduplication window that a new run takes over.
    """

    has_received: bool
    restarted: bool
    orchestration: str
    version: str | None
    tags: Mapping[str, str]
    start: Unwrapped
    inbox: Mapping[str, Any]


class InstanceReader:
    """Reader of instances of one engine. Raises: EngineError; any other exception is a bug and passes unchanged."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, what: str, instance_id: str, origin: MessageOrigin | None, *, start: bool) -> InstanceSnapshot:
        """Current state of the instance. start: read its start input, to check whether `origin` started it."""
        state = await self._engine.client.find_instance(instance_id, fetch_payloads=start, what=what)
        if state is None:
            return InstanceSnapshot(InstanceState.MISSING)
        known = InstanceState.FINISHED if state.runtime_status.name in FINISHED else InstanceState.RUNNING
        text = state.serialized_input if start else None
        return InstanceSnapshot(known, state.runtime_status.name, bool(text) and started_by(read_origin(text), origin))

    async def search(
        self, what: str, instance_id: str, origin: MessageOrigin | None, event: tuple[str, Any] | None
    ) -> PreviousRun | None:
        """Search the history of a finished instance for a command; None when the instance is gone.

        event: name and data. Without an origin they are the only sign that the command was seen.
        """
        try:
            history = await self._engine.client.get_orchestration_history(instance_id, what=what)
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
        # The start comes last: a run that replaces this one must remember it, however many messages came later
        messages = [*(read_origin(each.input) for each in raised), start]
        has_received = started_by(start, origin)
        restarted = origin is not None and started_by(start, origin_of_start(origin))
        if origin is None and event is not None:
            name, data = event
            has_received = any(each.name == name and _same(each.input, data) for each in raised)
        for message in messages:
            if message.origin is not None:
                seen.add(message.origin.key)
                has_received = has_received or (origin is not None and message.origin.key == origin.key)
        inbox = {"seen": seen.text(), "remember": limit}
        return PreviousRun(
            has_received, restarted, started.name, started.version or None, started.tags or {}, start, inbox
        )

    async def call(self, what: str, instance_id: str, call: Awaitable[T]) -> T:
        """Await one call of the engine's client. After an answer of unknown outcome the instance is read."""
        try:
            return await call
        except EngineError as error:
            if leaves_outcome_unknown(error):
                await self.ask(what, instance_id, None, error)
            raise

    async def ask(
        self, what: str, instance_id: str, origin: MessageOrigin | None, cause: EngineError
    ) -> InstanceSnapshot:
        """Read the instance after a call of unknown outcome.

        An engine that cannot answer this read either counts as unavailable, whatever the call returned. Raises:
        EngineOutage.
        """
        try:
            return await self.read(what, instance_id, origin, start=True)
        except EngineOutage:
            raise
        except EngineError as error:
            raise EngineUnavailable(f"{what}: the answer of the engine is not valid ({cause})") from error


def _start(what: str, text: str | None) -> Unwrapped:
    try:
        return unwrap(json.loads(text)) if text else Unwrapped(None)
    except ValueError as error:
        raise EngineRejected(f"{what}: the input of the finished instance cannot be read") from error


def _same(serialized: str | None, data: Any) -> bool:
    """True when a bare event carries this data. Both are compared as JSON, because engines may rewrite it."""
    if not serialized:
        return data is None
    try:
        return bool(json.loads(serialized) == json.loads(json.dumps(data)))
    except (ValueError, TypeError):
        return False
