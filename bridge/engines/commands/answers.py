"""Signed answers: the signing keys of an installation, and the check of an answer before it reaches its instance.

The keys are kept in an entity on the engine, where all processes of all daemons on one task hub share them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import structlog
from durabletask.client import OrchestrationQuery
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.history import EventRaisedEvent, HistoryEvent, TaskCompletedEvent, TaskScheduledEvent, TimerFiredEvent

from bridge.core.answers import (
    ANSWER,
    CORRELATION_ID,
    PUBLISH_ACTIVITY,
    SIGNED,
    TRANSITION,
    CorrelationId,
    LaterKeys,
    SigningKey,
    SigningKeyring,
    answered_by,
)
from bridge.core.commands import Cancel, Command, RaiseEvent, ScheduleOrchestration, StartOrRaise
from bridge.core.errors import (
    AlreadyTaken,
    EngineError,
    EngineMisconfigured,
    EngineTimeout,
    EngineUnavailable,
    InstanceFinished,
    UnexpectedReply,
)
from bridge.core.origin import MessageOrigin, read_origin
from bridge.core.stored_message import StoredMessage, StoreEarly
from bridge.engines.base import Engine
from bridge.engines.commands.moving import InstanceEngine

log = structlog.get_logger("bridge.answers")

ANSWERS = "bridge.answers"
"""Name of the entity that holds the keys."""

Signatures = Literal["required", "transition", "off"]
"""Strictness of an engine. `transition` accepts an unsigned answer to an open request that was sent unsigned."""

_ENTITY = EntityInstanceId(ANSWERS, "keys")
_FRESH = 15.0
"""Seconds for which read keys are used without another read; shorter than `bridge.core.answers.SPREAD`."""
_UNKNOWN = 1.0
"""Least seconds between two reads because of answers with unknown keys, which anybody can invent."""

_POLL_SECONDS = 0.05
_TIMEOUT = 10.0
"""Seconds within which a worker must process a change of the keys."""


def keys_entity(ctx: EntityContext, value: Any) -> None:
    """Entity that holds the keys of an installation. Operations: `make`, `rotate`, `retire`."""
    try:
        stored = ctx.get_state()
    except Exception:  # no JSON: as damaged as a state of another form
        stored = ()
    # The keys of a later version raise here: the operation fails, and they stay
    ring = SigningKeyring.from_json(stored)
    if ctx.operation == "make":
        ring = ring.make(SigningKey.from_json(value))
    elif ctx.operation == "rotate":
        ring = ring.rotate(SigningKey.from_json(value))
    elif ctx.operation == "retire":
        ring = ring.retire(value)
    ctx.set_state(ring.to_json())


keys_entity.__name__ = ANSWERS


def _read(state: str) -> SigningKeyring:
    """Keys of a serialized state. Raises: EngineMisconfigured when a later version wrote them."""
    try:
        return SigningKeyring.from_json(json.loads(state))
    except LaterKeys:
        raise EngineMisconfigured("the keys that sign requests are of a later version of the bridge") from None
    except (ValueError, RecursionError):
        return SigningKeyring(damaged=1)


class AnswerKeys:
    """Keys of one engine, as known to this process."""

    def __init__(
        self, engine: Engine, loop: asyncio.AbstractEventLoop | None = None, signatures: Signatures = "required"
    ) -> None:
        """Create the keys. loop: event loop of the engine's client, for `sign`, which runs on other threads."""
        self._engine = engine
        self._signatures = signatures
        self._started = datetime.now(UTC)
        self._loop = loop
        self._ring = SigningKeyring()
        self._read_at = float("-inf")
        self._unknown = asyncio.Lock()

    async def ring(self, *, fresh: bool = False) -> SigningKeyring:
        """Return the keys, read from the engine when they are missing or older than `_FRESH`. Raises: EngineError.

        fresh: read the keys in any case.
        """
        if fresh or not self._ring.keys or time.monotonic() - self._read_at > _FRESH:
            began = time.monotonic()
            found = await self._engine.client.find_entity(_ENTITY, what="read the keys of answers")
            ring = _read((found and found.get_state()) or "null")
            if len(ring.keys) < len(self._ring.keys) and not ring.keys:
                log.error(
                    "the keys that sign requests are gone from the engine: answers to open requests are refused",
                    action="answers",
                    engine=self._engine.name,
                )
            if ring.damaged and not self._ring.damaged:
                log.error(
                    "keys that sign requests cannot be read: answers to requests that they signed are refused",
                    action="answers",
                    engine=self._engine.name,
                    keys=ring.damaged,
                )
            self._ring, self._read_at = ring, began
        return self._ring

    async def verify(self, given: CorrelationId) -> bool:
        """True when one of the keys made the signature. An unknown key may be newer than the last read.

        Raises: EngineError.
        """
        ring = await self.ring()
        if given.key_id is not None and ring.find(given.key_id) is None:
            async with self._unknown:
                if time.monotonic() - self._read_at >= _UNKNOWN:
                    await self.ring(fresh=True)
                ring = self._ring
        return ring.verifies(given)

    async def change(self, operation: str, value: Any, done: Callable[[SigningKeyring], bool]) -> SigningKeyring:
        """Send the entity an operation; return the keys after a worker has processed it. Raises: EngineError."""
        await self._engine.client.signal_entity(_ENTITY, operation, value, what=f"{operation} the keys of answers")
        for _ in range(int(_TIMEOUT / _POLL_SECONDS)):
            if done(ring := await self.ring(fresh=True)):
                return ring
            await asyncio.sleep(_POLL_SECONDS)
        raise EngineTimeout(
            f"{operation} the keys of answers: no worker has processed the operation yet; is one running?"
        )

    def sign(self, plain: str, until: int | None) -> str:
        """Sign a correlation id, with a new first key where none exists. Raises: EngineError.

        While the first key is not active yet, the correlation id is returned unchanged. Call the method from any thread
        except the event loop's.
        """
        ring = self._ring if time.monotonic() - self._read_at < _FRESH else SigningKeyring()
        key = ring.signer(time.time()) or self._first()
        return plain if key is None else key.sign(plain, until)

    def _first(self) -> SigningKey | None:
        if self._loop is None:
            raise EngineUnavailable("sign a request: there is no event loop")
        try:
            ring = asyncio.run_coroutine_threadsafe(self._made(), self._loop).result(_TIMEOUT * 2)
        except RuntimeError as error:
            raise EngineUnavailable("sign a request: this process is stopping") from error
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError) as error:
            raise EngineTimeout("sign a request: the engine did not answer in time") from error
        return ring.signer(time.time())

    async def _made(self) -> SigningKeyring:
        ring = await self.ring()
        if ring.keys:
            return ring
        delay = TRANSITION if self._signatures == "transition" and await self._was_used() else 0.0
        return await self.change("make", SigningKey.new(time.time(), delay).to_json(), lambda found: bool(found.keys))

    async def _was_used(self) -> bool:
        """True when the task hub has instances from before this process, which earlier versions may still use."""
        client, what = self._engine.client, "look for instances of earlier versions"
        if (await client.list_instance_ids(completed_time_to=self._started, page_size=1, what=what)).items:
            return True
        # Open ones, and those that finished since: none finished before
        query = OrchestrationQuery(created_time_to=self._started)
        return bool(await client.get_all_orchestration_states(query, what=what))


def signing(keys: AnswerKeys, publish: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any], str], str]:
    """Wrap `publish`: sign the correlation id of requests that expect an answer, and mark a signed one in the result.

    The wrapper's second argument is the id of the publishing instance. Only a correlation id of this instance is
    signed.
    """

    def signed(request: Mapping[str, Any], instance_id: str) -> str:
        wanted = request.get(ANSWER)
        headers = request.get("headers") or {}
        if wanted is None or headers.get(CORRELATION_ID) != wanted["to"] or wanted["to"][37:] != instance_id:
            return publish(request)
        correlation_id = keys.sign(wanted["to"], wanted.get("until"))
        published = publish({**request, "headers": {**headers, CORRELATION_ID: correlation_id}})
        return published if correlation_id == wanted["to"] else published + SIGNED

    return signed


@dataclass(slots=True)
class _Request:
    """Request in the history of its instance.

    published: True when its publish is confirmed.
    signed: True when it was sent with a signature.
    answer: event of the first answer.
    """

    published: bool = False
    signed: bool = False
    timed_out: bool = False
    answer: EventRaisedEvent | None = None


class AnswerExecutor:
    """Executor in front of an engine's executor, which passes an answer when it belongs to an open request.

    results: number of answers by `accepted`, `unsigned` (accepted), `duplicate`, `late` and `refused`.
    """

    def __init__(
        self,
        engine: Engine,
        keys: AnswerKeys,
        executor: InstanceEngine,
        store_early: StoreEarly | None,
        signatures: Signatures,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._executor = executor
        self._store_early = store_early
        self._signatures = signatures
        self._now = now
        self.results: Counter[str] = Counter()

    async def execute(self, command: Command, origin: MessageOrigin) -> None:
        """Check an answer and execute its command. Other commands pass unchecked.

        Raises: EngineError, UnexpectedReply.
        """
        await self._checked(command, origin, self._executor.execute)

    async def execute_found(self, command: Command, origin: MessageOrigin) -> None:
        """Check an answer and execute its command, see `InstanceEngine.execute_found`."""
        await self._checked(command, origin, self._executor.execute_found)

    async def _checked(
        self, command: Command, origin: MessageOrigin, execute: Callable[[Command, MessageOrigin], Awaitable[None]]
    ) -> None:
        given = _answer(command)
        if given is None:
            await execute(command, origin)
            return
        try:
            await self._check(given, origin)
            await execute(_plain(command, given), origin)
        except UnexpectedReply:
            self.results["refused"] += 1
            raise
        except AlreadyTaken:
            self.results["duplicate"] += 1
            raise
        except InstanceFinished:
            self.results["late"] += 1
            raise
        self.results["unsigned" if given.key_id is None else "accepted"] += 1

    async def store_early(self, command: Command, origin: MessageOrigin, message: StoredMessage, ttl: float) -> None:
        """Check an answer and store its command as an early message.

        Raises: EngineError, InvalidCommand, UnexpectedReply.
        """
        assert self._store_early is not None
        given = _answer(command)
        if given is not None:
            await self._check(given, origin)
            command = _plain(command, given)
        await self._store_early(command, origin, message, ttl)

    async def _check(self, given: CorrelationId, origin: MessageOrigin) -> None:
        """Check an answer's signature and, where necessary, its request.

        Raises: UnexpectedReply, AlreadyTaken, InstanceFinished, InstanceNotFound, EngineError.
        """
        if self._signatures == "off":
            return
        if given.key_id is None and self._signatures == "required":
            raise UnexpectedReply("the correlation id of the answer has no signature")
        if given.key_id is not None and not await self._keys.verify(given):
            raise UnexpectedReply("the correlation id of the answer was not made by this installation, or was altered")
        overdue = given.until is not None and self._now().timestamp() * 1000 > given.until
        # An engine that confirms event delivery detects by itself that a request was answered before
        if given.key_id is None or overdue or not self._engine.confirms_event_delivery:
            await self._check_request(given, origin)

    async def _check_request(self, given: CorrelationId, origin: MessageOrigin) -> None:
        """Search the history of the instance for the request.

        Raises: UnexpectedReply, AlreadyTaken, InstanceFinished, EngineError.
        """
        what = f"answer {given.instance_id!r}"
        history = await self._engine.client.get_orchestration_history(given.instance_id, what=what)
        request = _request(history, given)
        if given.key_id is None and (request is None or request.signed):
            raise UnexpectedReply("the correlation id of the answer has no signature, and no open request without one")
        if request is None:
            return
        if request.answer is not None:
            if (first := read_origin(request.answer.input).origin) is not None and first.key == origin.key:
                raise AlreadyTaken(f"{what}: the engine executed it before")
            raise InstanceFinished(f"{what}: the request was answered before")
        if request.timed_out:
            raise InstanceFinished(f"{what}: the request timed out before")
        if given.key_id is None and not request.published:
            raise EngineError(f"{what}: the request is not confirmed yet")


def _answer(command: Command) -> CorrelationId | None:
    match command:
        case RaiseEvent(name=name) | Cancel(event=name) | StartOrRaise(event=name):
            return answered_by(name)
        case ScheduleOrchestration(event=str(name)):
            return answered_by(name)
        case _:
            return None


def _plain(command: Command, given: CorrelationId) -> Command:
    """Replace the event name of the command by the name that the workflow waits for."""
    match command:
        case RaiseEvent():
            return replace(command, name=given.event, instance_id=given.instance_id)
        case Cancel() | StartOrRaise() | ScheduleOrchestration():
            return replace(command, event=given.event)
        case _:
            return command


def _request(history: Iterable[HistoryEvent], given: CorrelationId) -> _Request | None:
    found = _Request()
    sent: set[int] = set()
    for event in history:
        if isinstance(event, TaskScheduledEvent) and event.name == PUBLISH_ACTIVITY and _asks(event.input, given):
            sent.add(event.event_id)
        elif isinstance(event, TaskCompletedEvent) and event.task_scheduled_id in sent:
            found.published = True
            found.signed = found.signed or str(json.loads(event.result or "null")).endswith(SIGNED)
        elif isinstance(event, EventRaisedEvent) and event.name == given.event:
            found.answer = found.answer or event
        elif isinstance(event, TimerFiredEvent) and given.until is not None:
            found.timed_out = found.timed_out or abs(_milliseconds(event.fire_at) - given.until) <= 1
    return found if sent else None


def _asks(serialized: str | None, given: CorrelationId) -> bool:
    """True when a publish sent this correlation id."""
    if not serialized or given.plain[:36] not in serialized:
        return False
    request = json.loads(serialized)
    headers = request.get("headers") if isinstance(request, dict) else None
    return isinstance(headers, dict) and headers.get(CORRELATION_ID) == given.plain


def _milliseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
