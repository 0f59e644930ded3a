"""Execution of commands as calls of the SDK's client: each command takes effect once, or fails with a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.commands import (
    Cancel,
    Command,
    OnFinished,
    RaiseEvent,
    Resume,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Suspend,
    Terminate,
)
from bridge.core.errors import (
    AlreadyTaken,
    EngineError,
    EngineRejected,
    EngineTimeout,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
)
from bridge.core.instance_protocol import (
    ENDS,
    FINISHED,
    UNKNOWN,
    CallResult,
    InstanceFacts,
    InstanceState,
    NextStep,
    next_step,
    origin_of_start,
)
from bridge.core.lineage.records import command_record
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.engines.base import Engine
from bridge.engines.commands.cancel_grace import start_cancel_grace
from bridge.engines.commands.instance_reader import InstanceReader, PreviousRun
from bridge.engines.commands.moving import StartsElsewhere
from bridge.engines.errors import details_of, is_late, leaves_outcome_unknown
from bridge.engines.lineage_index import LineageIndex
from bridge.engines.remote.capabilities import Capability
from bridge.engines.remote.grpc_channel import PARENT
from bridge.sqlite_engine.model.reply import ANSWERED, Conflict, read_conflict

_NEVER = pb.OrchestrationIdReusePolicy()
"""Reuse policy that never reuses an id, sent explicitly because engines differ in their default."""

_FINISHED = pb.OrchestrationIdReusePolicy(
    replaceableStatus=[
        pb.ORCHESTRATION_STATUS_COMPLETED,
        pb.ORCHESTRATION_STATUS_FAILED,
        pb.ORCHESTRATION_STATUS_TERMINATED,
        pb.ORCHESTRATION_STATUS_CANCELED,
    ]
)

_STARTS = (ScheduleOrchestration, StartOrRaise)
_STARTED = InstanceFacts(CallResult.STARTED)
_EXISTING = InstanceFacts(CallResult.EXISTS)

_MOVES = 30
"""Largest number of steps of one command, whose instance keeps changing; the command is then retried later."""

_REFUSALS = 3
"""Number of refusals accepted from an engine that calls an instance finished and then shows it as running."""


class CommandRunner:
    """Executor of commands on one engine. The engine's client gives every call its deadline.

    `instance_protocol` decides which calls are made, in which order. The message's id travels in every start,
    event and signal. Executed commands are recognised by it: in the start input of an instance, in the history of a
    finished instance, or by an inbox.

    An outcome is unknown when the answer is late, or has a status such as UNKNOWN. A query of the instance resolves it
    where possible. Otherwise EngineTimeout is raised, and the command is repeated:

    - start: when the instance exists and this message started it, the command is done. When another message started it,
      the id is taken. When it does not exist, the first error stands.
    - every other command: repeated, under the same id.

    The channel refuses a request larger than the engine accepts before it is sent: EngineRejected.

    now: the clock to which delays are added.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._now = now
        self._reader = InstanceReader(engine)

    async def execute(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command; return when the engine has accepted it. Raises: EngineError.

        origin: the message of the command. The command's data travels in an envelope that names the message. None sends
        the bare data; a repeat cannot be recognised then.
        """
        if isinstance(command, _STARTS):
            # The hot path: no decision before the first call, and none after it when the instance is new.
            run = _CommandRun(self, command, origin)
            if await run.start(_NEVER) is CallResult.STARTED:
                return
            await run.run()
        else:
            await self._go_on(command, origin, _CommandRun(self, command, origin))

    async def execute_found(self, command: Command, origin: MessageOrigin | None = None) -> None:
        """Execute a command for an instance that is on this engine, and start nothing here. Raises: EngineError.

        Raises: StartsElsewhere when the command needs a start.
        """
        await self._go_on(command, origin, _CommandRun(self, command, origin, is_found=True))

    async def restart(self, command: Command, origin: MessageOrigin | None, previous: PreviousRun) -> None:
        """Start an instance in place of a run that has finished on another engine, then execute the command.

        The new run remembers the messages of the former one. Raises: EngineError.
        """
        await self._go_on(command, origin, _CommandRun(self, command, origin, previous=previous))

    async def read_state(self, command: Command) -> InstanceState:
        """State of the instance of a command; an entity that has a state counts as running. Raises: EngineError."""
        if isinstance(command, SignalEntity):
            entity, what = _entity(command), f"look for entity {command.entity!r} {command.key!r}"
            found = await self._engine.client.get_entity(entity, include_state=False, what=what)
            return InstanceState.MISSING if found is None else InstanceState.RUNNING
        snapshot = await self._reader.read(f"look for {command.instance_id!r}", command.instance_id, None, start=False)
        return snapshot.state

    async def _go_on(self, command: Command, origin: MessageOrigin | None, run: _CommandRun) -> None:
        if isinstance(command, Cancel) and command.grace is not None:
            await self._cancel(command, command.grace, origin, run)
        else:
            await run.run()

    async def _cancel(self, command: Cancel, grace: float, origin: MessageOrigin | None, run: _CommandRun) -> None:
        due = self._now() + timedelta(seconds=grace)
        try:
            await run.run()
        except AlreadyTaken:
            # The first attempt may have failed at the start of the cancel grace orchestration
            await start_cancel_grace(self._engine, self._reader, command, origin, due)
            raise
        await start_cancel_grace(self._engine, self._reader, command, origin, due)


class IndexingRunner(CommandRunner):
    """Runner that adds each executed command to the lineage index of its engine, where the bridge writes that."""

    def __init__(self, engine: Engine, index: LineageIndex, now: Callable[[], datetime]) -> None:
        super().__init__(engine, now)
        self._index = index

    async def execute(self, command: Command, origin: MessageOrigin | None = None) -> None:
        await self._indexed(command, origin, super().execute(command, origin))

    async def execute_found(self, command: Command, origin: MessageOrigin | None = None) -> None:
        await self._indexed(command, origin, super().execute_found(command, origin))

    async def restart(self, command: Command, origin: MessageOrigin | None, previous: PreviousRun) -> None:
        await self._indexed(command, origin, super().restart(command, origin, previous))

    async def _indexed(self, command: Command, origin: MessageOrigin | None, execution: Awaitable[None]) -> None:
        try:
            await execution
        except AlreadyTaken:
            if origin is not None:
                self._index.repeated(command, origin)
            raise
        if origin is not None:
            self._index.executed(command, origin)


def indexing_runner(engine: Engine, now: Callable[[], datetime]) -> CommandRunner:
    """Create a runner for the messages of sources."""
    return CommandRunner(engine, now) if engine.lineage is None else IndexingRunner(engine, engine.lineage, now)


class _CommandRun:
    """Execution of one command."""

    __slots__ = (
        "_command",
        "_engine",
        "_error",
        "_id",
        "_is_confirmed",
        "_is_found",
        "_known",
        "_now",
        "_origin",
        "_previous",
        "_reader",
        "_refusals",
        "_status",
    )  # fmt: skip

    def __init__(
        self,
        runner: CommandRunner,
        command: Command,
        origin: MessageOrigin | None,
        *,
        is_found: bool = False,
        previous: PreviousRun | None = None,
    ) -> None:
        """Create the execution.

        is_found: the instance is here; starts belong to another engine.
        previous: run on another engine that the first step replaces.
        """
        self._engine = runner._engine
        self._reader = runner._reader
        self._now = runner._now
        self._command = command
        self._origin = origin
        self._id = "" if isinstance(command, SignalEntity) else command.instance_id
        self._is_confirmed = False
        self._known = _EXISTING if is_found and isinstance(command, _STARTS) else UNKNOWN
        self._is_found = is_found
        self._status = ""
        self._previous = previous
        self._error: EngineError | None = None
        self._refusals = 0

    async def run(self) -> None:
        """Make one step after another until the command is done. Raises: EngineError."""
        confirms = self._engine.confirms_event_delivery
        if self._previous is not None:
            await self._replace()
        for _ in range(_MOVES):
            move = next_step(self._command, self._known, confirms or self._is_confirmed)
            if move in ENDS:
                return self._end(move)
            if self._is_found and move in (NextStep.START, NextStep.REPLACE):
                raise StartsElsewhere(self._previous if move is NextStep.REPLACE else None)
            await self._make(move)
        raise EngineError(f"{self._what}: the instance keeps changing")

    async def _make(self, move: NextStep) -> None:
        match move:
            case NextStep.START:
                await self.start(_NEVER)
            case NextStep.REPLACE:
                await self._replace()
            case NextStep.RAISE:
                await self._raise()
            case NextStep.CALL:
                await self._call()
            case NextStep.READ:
                await self._read_instance()
            case _:
                await self._search()

    def _end(self, move: NextStep) -> None:
        match move:
            case NextStep.REPEATED:
                raise AlreadyTaken(f"{self._what}: the engine executed it before")
            case NextStep.EXISTS:
                raise InstanceAlreadyExists(f"{self._what}: another message has started the instance")
            case NextStep.MISSING:
                raise InstanceNotFound(f"{self._what}: no such instance")
            case NextStep.FINISHED:
                raise InstanceFinished(f"{self._what}: the instance is {self._status} and did not receive it")
            case NextStep.UNSURE:
                assert self._error is not None
                raise self._error

    # Moves

    async def start(self, policy: pb.OrchestrationIdReusePolicy, inbox: Mapping[str, Any] | None = None) -> CallResult:
        """Start the command's own orchestration."""
        command = self._command
        assert isinstance(command, _STARTS)
        start_at = None
        if isinstance(command, ScheduleOrchestration):
            start_at = command.start_at
            if command.delay is not None:
                start_at = self._now() + timedelta(seconds=command.delay)
        payload = command.input if self._origin is None else wrap_payload(command.input, self._origin, inbox)
        return await self._schedule(command.orchestration, payload, policy, command.tags, command.version, start_at)

    async def _replace(self) -> None:
        """Start again after the instance has finished, with the deduplication window of its last run."""
        previous = self._previous
        assert previous is not None
        if isinstance(self._command, _STARTS):
            await self.start(_FINISHED, previous.inbox)
            return
        origin = self._origin
        payload = wrap_payload(previous.start.data, None if origin is None else origin_of_start(origin), previous.inbox)
        await self._schedule(previous.orchestration, payload, _FINISHED, previous.tags, previous.version)

    async def _schedule(
        self,
        orchestration: str,
        payload: Any,
        policy: pb.OrchestrationIdReusePolicy,
        tags: Mapping[str, str],
        version: str | None,
        start_at: datetime | None = None,
    ) -> CallResult:
        PARENT.set(self._origin)
        try:
            await self._engine.client.schedule_new_orchestration(
                orchestration,
                input=payload,
                instance_id=self._id,
                start_at=start_at,
                reuse_id_policy=policy,
                tags=tags,
                version=version,
            )
        except EngineError as error:
            facts = await self._after_failed_start(error)
            if facts is None:
                raise
            self._known = facts
        else:
            self._known = _STARTED
        return self._known.result or CallResult.UNSURE

    async def _after_failed_start(self, error: EngineError) -> InstanceFacts | None:
        """Facts about the instance; None when the error stands."""
        if isinstance(error, InstanceAlreadyExists):
            cause = error.__cause__
            seen = read_conflict(details_of(cause)) if cause and self._engine.confirms_event_delivery else None
            if seen is None:
                return InstanceFacts(CallResult.EXISTS)
            self._status = seen.status
            return InstanceFacts(
                CallResult.EXISTS,
                InstanceState.FINISHED if self._status in FINISHED else InstanceState.RUNNING,
                seen.is_repeat,
            )
        if not isinstance(error, EngineTimeout) and not leaves_outcome_unknown(error):
            return None
        self._error = error
        snapshot = await self._reader.ask(f"start {self._id!r}", self._id, self._origin, error)
        self._status = snapshot.status
        return InstanceFacts(CallResult.UNSURE, snapshot.state, snapshot.started_by_command)

    async def _raise(self) -> None:
        name, data = _event(self._command)
        payload = data if self._origin is None else wrap_payload(data, self._origin)
        instance_id = self._id
        result = CallResult.RAISED
        try:
            call = self._engine.client.raise_orchestration_event(instance_id, name, data=payload)
            self._is_confirmed = await self._reader.call(self._what, instance_id, call)
        except InstanceNotFound:
            result = CallResult.MISSING
        except InstanceAlreadyExists as error:
            # An engine refuses an event in this way only when it answers a request that has an answer
            if error.__cause__ and read_conflict(details_of(error.__cause__)) == Conflict(ANSWERED, is_repeat=True):
                raise AlreadyTaken(f"{self._what}: the engine executed it before") from error
            raise InstanceFinished(f"{self._what}: the request was answered before") from error
        except EngineRejected as error:
            self._refusals += 1
            if not is_late(error) or self._refusals > _REFUSALS:
                raise
            result = CallResult.FINISHED
        self._known = InstanceFacts(result)

    async def _read_instance(self) -> None:
        start = isinstance(self._command, _STARTS)
        snapshot = await self._reader.read(self._what, self._id, self._origin, start=start)
        self._status = snapshot.status
        self._known = replace(self._known, state=snapshot.state, started_by_command=snapshot.started_by_command)

    async def _search(self) -> None:
        if Capability.HISTORIES in self._engine.client.lacking:
            if getattr(self._command, "on_finished", None) is not OnFinished.IGNORE:
                what = f"{self._what}: the instance is {self._status}, and the engine has no histories that show"
                raise EngineRejected(f"{what} if it received the message")
            self._known = replace(self._known, has_received=False)
            return
        event = _event(self._command)
        previous = self._previous = await self._reader.search(self._what, self._id, self._origin, event)
        # An instance that is gone since the look is searched for again
        if previous is None:
            self._known = replace(self._known, state=None)
        else:
            self._known = replace(self._known, has_received=previous.has_received, restarted=previous.restarted)

    async def _call(self) -> None:
        """Make the call of a command that bypasses the orchestration's code, or that signals an entity."""
        command = self._command
        call = self._signal(command) if isinstance(command, SignalEntity) else self._control()
        try:
            await self._reader.call(self._what, self._id, call)
        except InstanceNotFound:
            self._known = InstanceFacts(CallResult.MISSING)
        else:
            self._known = InstanceFacts(CallResult.CALLED)
            if self._origin is not None and self._engine.keeps_lineage and not isinstance(command, SignalEntity):
                # No history names the message of such a command
                with suppress(EngineError):
                    await self._engine.client.record_lineage(command_record(command, self._origin))

    def _control(self) -> Awaitable[None]:
        # Suspend and resume are sent even when the state is already the wanted one: the opposite command may have been
        # accepted and not carried out yet. A second one has no effect.
        client = self._engine.client
        match self._command:
            case Terminate(output=output, recursive=recursive):
                return client.terminate_orchestration(self._id, output=output, recursive=recursive)
            case Suspend(reason=reason):
                return client.suspend_orchestration(self._id, reason=reason)
            case Resume(reason=reason):
                return client.resume_orchestration(self._id, reason=reason)
            case other:
                raise AssertionError(other)

    def _signal(self, command: SignalEntity) -> Awaitable[None]:
        at = command.at
        if command.delay is not None:
            at = self._now() + timedelta(seconds=command.delay)
        payload = command.input if self._origin is None else wrap_payload(command.input, self._origin)
        entity = _entity(command)
        self._id = str(entity)
        return self._engine.client.signal_entity(entity, command.operation, payload, at, what=self._what)

    @property
    def _what(self) -> str:
        """Description of the command for the text of errors."""
        match self._command:
            case ScheduleOrchestration() | StartOrRaise():
                return f"start {self._id!r}"
            case RaiseEvent(name=name) | Cancel(event=name):
                return f"raise {name!r} to {self._id!r}"
            case SignalEntity(entity=entity, key=key, operation=operation):
                return f"signal {operation!r} to entity {entity!r} {key!r}"
            case command:
                return f"{type(command).__name__.lower()} {self._id!r}"


def _entity(command: SignalEntity) -> EntityInstanceId:
    """Id of the entity of a command. Raises: EngineRejected."""
    try:
        return EntityInstanceId(command.entity, command.key)
    except ValueError as error:
        what = f"signal {command.operation!r} to entity {command.entity!r} {command.key!r}"
        raise EngineRejected(f"{what}: the SDK cannot make a request of it (ValueError)") from error


def _event(command: Command) -> tuple[str, Any]:
    """Name and data of the event that a command raises."""
    match command:
        case RaiseEvent():
            return command.name, command.data
        case Cancel():
            return command.event, {"reason": command.reason}
        case StartOrRaise():
            return command.event, command.data
        case ScheduleOrchestration():
            return command.event or command.orchestration, command.input
        case _:
            raise AssertionError(command)
