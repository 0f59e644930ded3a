"""Commands as calls of the SDK's client, with what to believe when the outcome of a call is unknown."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationState, OrchestrationStatus
from durabletask.entities import EntityInstanceId
from durabletask.history import EventRaisedEvent
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.commands import (
    Cancel,
    Command,
    OnExisting,
    RaiseEvent,
    Resume,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Suspend,
    Terminate,
)
from bridge.engines.base import Engine
from bridge.engines.errors import QUESTIONS, status_of, translate
from bridge.engines.grace import GUARD, GUARD_PREFIX, created
from bridge.engines.parenthood import PARENT
from bridge.errors import (
    EngineError,
    EngineOutage,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
)
from bridge.origin import Origin, wrap

_NEVER = pb.OrchestrationIdReusePolicy()
"""An id that is kept is never reused. Sent explicitly, as engines differ in what they do without a policy."""

_FINISHED = pb.OrchestrationIdReusePolicy(
    replaceableStatus=[
        pb.ORCHESTRATION_STATUS_COMPLETED,
        pb.ORCHESTRATION_STATUS_FAILED,
        pb.ORCHESTRATION_STATUS_TERMINATED,
        pb.ORCHESTRATION_STATUS_CANCELED,
    ]
)
_TERMINAL = frozenset(
    {OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED}
)  # fmt: skip

CLOCK_MARGIN = 5.0
"""Seconds that the engine's clock may be behind ours when a start of unknown outcome is looked for."""


class CommandExecutor:
    """Executes commands on one engine. The engine's client gives every call its deadline; a command is at most four.

    An outcome that is unknown (no answer in time, or an answer that says nothing, like UNKNOWN) is resolved by asking
    for the instance where that tells, else by raising EngineTimeout, so that the command is repeated:

    - start: found, and created since the call began, it is our start and the command is done; found and older, the id
      was taken before: InstanceAlreadyExists; not found: the first error stands.
    - everything else: repeated.

    After a raise the instance is looked at, because an event to a finished instance may be accepted and lost: when it
    has finished, the event counts as delivered if its history holds one of that name with equal data.

    A request larger than the engine takes is refused by the channel before it is sent: EngineRejected.

    now: the clock that delays are added to.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._now = now
        self._calls: dict[type[Any], Callable[[Any, Origin | None], Coroutine[Any, Any, None]]] = {
            ScheduleOrchestration: self._schedule,
            RaiseEvent: self._raise,
            StartOrRaise: self._start_or_raise,
            Cancel: self._cancel,
            Terminate: self._terminate,
            Suspend: self._suspend,
            Resume: self._resume,
            SignalEntity: self._signal,
        }

    def execute(self, command: Command, origin: Origin | None = None) -> Coroutine[Any, Any, None]:
        """Returns when the engine has taken the command. Raises: EngineError.

        origin: the message that the command came from; its data travels in an envelope that names it. Bare when None.
        """
        return self._calls[type(command)](command, origin)

    async def _schedule(self, command: ScheduleOrchestration, origin: Origin | None) -> None:
        start_at = command.start_at
        if command.delay is not None:
            start_at = self._now() + timedelta(seconds=command.delay)
        policy = _FINISHED if command.on_existing is OnExisting.RESTART else _NEVER
        await self._start(command, origin, start_at, policy)

    async def _start(
        self,
        command: ScheduleOrchestration | StartOrRaise,
        origin: Origin | None,
        start_at: datetime | None,
        policy: pb.OrchestrationIdReusePolicy,
    ) -> None:
        client = self._engine.client
        began = time.time()
        PARENT.set(origin)
        # The hot path: `_call` is written out, as it would cost another coroutine per message.
        try:
            await client.schedule_new_orchestration(
                command.orchestration,
                input=_payload(command.input, origin),
                instance_id=command.instance_id,
                start_at=start_at,
                reuse_id_policy=policy,
                tags=dict(command.tags) if command.tags else None,
                version=command.version,
            )
        except (Exception, asyncio.CancelledError) as error:
            await self._after_failed_start(error, f"start {command.instance_id!r}", command.instance_id, began)

    async def _after_failed_start(self, error: BaseException, what: str, instance_id: str, began: float) -> None:
        translated = self._translate(error, what)
        question = status_of(error) in QUESTIONS
        if not question and not isinstance(translated, EngineTimeout):
            raise translated from error
        state = await self._ask(what, instance_id, translated)
        if state is None:
            raise translated from error
        created = state.created_at.replace(tzinfo=UTC).timestamp()
        # An engine that answered did not start it: it found it. One that did not answer may have.
        if not question and created >= began - CLOCK_MARGIN:
            return
        raise InstanceAlreadyExists(f"{what}: the instance exists since before this call") from error

    async def _raise(self, command: RaiseEvent, origin: Origin | None) -> None:
        await self._raise_event(command.instance_id, command.name, command.data, origin)

    async def _cancel(self, command: Cancel, origin: Origin | None) -> None:
        await self._raise_event(command.instance_id, command.event, {"reason": command.reason}, origin)
        if command.grace is not None:
            await self._guard(command, command.grace, origin)

    async def _guard(self, command: Cancel, grace: float, origin: Origin | None) -> None:
        """Start what looks again when the grace is over. A repeat of the request finds the first one's."""
        what = f"guard the cancel of {command.instance_id!r}"
        state = await self._state(what, command.instance_id)
        if state is None or state.runtime_status in _TERMINAL:
            return
        identity = uuid4().hex if origin is None else "\n".join(map(str, origin.key))
        digest = blake2b(f"{command.instance_id}\n{identity}".encode("utf-8", "surrogatepass"), digest_size=16)
        request = {
            "instance": command.instance_id,
            "created": created(state),
            "due": (self._now() + timedelta(seconds=grace)).astimezone(UTC).isoformat(),
            "reason": command.reason,
        }
        start = ScheduleOrchestration(GUARD, f"{GUARD_PREFIX}{digest.hexdigest()}", request)
        with suppress(InstanceAlreadyExists):
            await self._start(start, None, None, _NEVER)

    async def _start_or_raise(self, command: StartOrRaise, origin: Origin | None) -> None:
        try:
            await self._start(command, origin, None, _NEVER)
        except InstanceAlreadyExists:
            await self._raise_event(command.instance_id, command.event, command.data, origin)

    async def _raise_event(self, instance_id: str, name: str, data: Any, origin: Origin | None) -> None:
        what = f"raise {name!r} to {instance_id!r}"
        client = self._engine.client
        data = _payload(data, origin)
        refused: EngineRejected | None = None
        try:
            await self._call(what, instance_id, lambda: client.raise_orchestration_event(instance_id, name, data=data))
        except EngineRejected as error:
            refused = error  # how the embedded engine says that the instance has finished
        state = await self._state(what, instance_id)
        if refused is not None and (state is None or state.runtime_status not in _TERMINAL):
            raise refused
        if state is None:
            raise InstanceNotFound(f"{what}: no such instance")
        if state.runtime_status not in _TERMINAL:
            return
        history = await self._call(what, None, lambda: client.get_orchestration_history(instance_id))
        for event in history:
            if isinstance(event, EventRaisedEvent) and event.name == name and _same(event.input, data):
                return
        raise InstanceFinished(f"{what}: the instance is {state.runtime_status.name} and did not see the event")

    async def _terminate(self, command: Terminate, origin: Origin | None) -> None:
        what = f"terminate {command.instance_id!r}"
        await self._running(what, command.instance_id)
        client = self._engine.client
        await self._call(
            what,
            command.instance_id,
            lambda: client.terminate_orchestration(
                command.instance_id, output=command.output, recursive=command.recursive
            ),
        )

    async def _suspend(self, command: Suspend, origin: Origin | None) -> None:
        # Sent even where the state is suspended: a resume that was accepted may not have been carried out yet. A second
        # suspension has no effect.
        what = f"suspend {command.instance_id!r}"
        await self._running(what, command.instance_id)
        client = self._engine.client
        await self._call(
            what,
            command.instance_id,
            lambda: client.suspend_orchestration(command.instance_id, reason=command.reason),
        )

    async def _resume(self, command: Resume, origin: Origin | None) -> None:
        # Sent even where the state is running, for the same reason.
        what = f"resume {command.instance_id!r}"
        await self._running(what, command.instance_id)
        client = self._engine.client
        await self._call(
            what,
            command.instance_id,
            lambda: client.resume_orchestration(command.instance_id, reason=command.reason),
        )

    async def _signal(self, command: SignalEntity, origin: Origin | None) -> None:
        what = f"signal {command.operation!r} to entity {command.entity!r} {command.key!r}"
        at = command.at
        if command.delay is not None:
            at = self._now() + timedelta(seconds=command.delay)
        client = self._engine.client
        try:
            entity = EntityInstanceId(command.entity, command.key)
        except ValueError as error:
            raise translate(error, what=what) from error
        await self._call(
            what,
            str(entity),
            lambda: client.signal_entity(
                entity, command.operation, input=_payload(command.input, origin), signal_time=at
            ),
        )

    async def _running(self, what: str, instance_id: str) -> None:
        """Raises: InstanceNotFound, InstanceFinished."""
        state = await self._state(what, instance_id)
        if state is None:
            raise InstanceNotFound(f"{what}: no such instance")
        if state.runtime_status in _TERMINAL:
            raise InstanceFinished(f"{what}: the instance is {state.runtime_status.name}")

    async def _state(self, what: str, instance_id: str) -> OrchestrationState | None:
        client: AsyncTaskHubGrpcClient = self._engine.client
        try:
            state: OrchestrationState | None = await self._call(
                what, None, lambda: client.get_orchestration_state(instance_id, fetch_payloads=False)
            )
        except InstanceNotFound:
            return None
        return state

    async def _call(self, what: str, instance_id: str | None, call: Callable[[], Awaitable[Any]]) -> Any:
        """One call. With an `instance_id`, an answer that says nothing is followed by a question."""
        try:
            return await call()
        except (Exception, asyncio.CancelledError) as error:
            translated = self._translate(error, what)
            if instance_id is not None and status_of(error) in QUESTIONS:
                await self._ask(what, instance_id, translated)
            raise translated from error

    async def _ask(self, what: str, instance_id: str, cause: EngineError) -> OrchestrationState | None:
        """The instance after a call of unknown outcome.

        An engine that cannot answer this either is out of order, whatever it said of the call: raises EngineOutage.
        """
        try:
            return await self._state(what, instance_id)
        except EngineOutage:
            raise
        except EngineError as error:
            raise EngineUnavailable(f"{what}: the engine answers nothing useful ({cause})") from error

    def _translate(self, error: BaseException, what: str) -> EngineError:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise error
            # gRPC says so when the channel was closed under the call.
            return EngineUnavailable(f"{what}: the connection to the engine was closed")
        return translate(error, what=what)


def _payload(data: Any, origin: Origin | None) -> Any:
    return data if origin is None else wrap(data, origin)


def _same(serialized: str | None, data: Any) -> bool:
    """Whether an event in a history carries this data. Both are compared as JSON, as engines may reformat it."""
    if not serialized:
        return data is None
    try:
        return bool(json.loads(serialized) == json.loads(json.dumps(data)))
    except (ValueError, TypeError):
        return False
