"""Messages for an orchestration, each of them once.

Brokers deliver at least once, and so does the bridge. Every message it raises has an id; an inbox remembers the last
ids in the orchestration's own state, which replay rebuilds and `continue_as_new` takes along, and drops repeats.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from operator import itemgetter
from typing import Any

import structlog
from durabletask.task import CancellableTask, OrchestrationContext, Task, when_any

from bridge.deduplication import DeduplicationWindow
from bridge.errors import wire_name
from bridge.origin import Key, MessageOrigin, envelope_body, key_of, origin_of, wrap_payload
from bridge.workflow.converter import DataConverter
from bridge.workflow.parallel import Steps
from bridge.workflow.repeats import REPEATS
from bridge.workflow.start import EnvelopeArgument, start_of

log = structlog.get_logger("bridge.workflow")

_ATTRIBUTE = "_bridge_inbox"
_CONVERTER = DataConverter()


@wire_name("bridge.workflow.inbox.MessageTimedOut")
class MessageTimedOut(TimeoutError):
    """No message came in time."""

    def __init__(self, name: str, timeout: timedelta) -> None:
        super().__init__(f"no message {name!r} within {timeout}")
        self.name = name


class Received(EnvelopeArgument):
    """A message as an orchestration gets it.

    name: of the event. data: bare, or of the type that was asked for.
    """

    __slots__ = ("name",)
    name: str

    @property
    def origin(self) -> MessageOrigin | None:
        """None when another client than the bridge raised it, without an envelope: it is never taken for a repeat."""
        return None if self.inside is None else origin_of(self.inside)

    def __repr__(self) -> str:
        return f"Received({self.name!r}, from {self.origin})"


def _received(name: str, inside: Mapping[str, Any] | None, data: Any) -> Received:
    message = Received(inside, data)
    message.name = name
    return message


Where = Callable[[Received], bool]
"""Must be deterministic: it is asked again by every replay."""


class Inbox:
    """The inbox of an orchestration. There is one: each `Inbox(ctx)` is a handle of the same.

    remember: how many messages it recognizes, at least 1; 1,000 when nobody said. The message that started the
    orchestration is always recognized.

    Raises: RuntimeError when the worker does not tell orchestrators their first message (`message_aware`).
    """

    def __init__(self, ctx: OrchestrationContext, *, remember: int | None = None) -> None:
        self._state = _state_of(ctx)
        if remember is not None:
            if remember < 1:
                raise ValueError("an inbox remembers at least one message")
            self._state.seen.limit = remember

    def task(self, name: str) -> CancellableTask[Any]:
        """A task that completes with the next message of this name; give it to `accept`.

        Until it was accepted or cancelled every call gives the same task, so a wait that lost a race swallows nothing.
        """
        return self._state.queue(name).lease(self._state.ctx)

    def accept(self, completed: Task[Any], *, data_type: Any = None) -> Received | None:
        """The message of a completed task; None when it is a repeat, or somebody else has taken it meanwhile.

        Raises: ValueError when the task is not complete or not of this inbox; TypeError when the data does not fit.
        """
        queue: _EventQueue | None = getattr(completed, _ATTRIBUTE, None)
        if queue is None:
            raise ValueError("not a task of this inbox")
        if not completed.is_complete:
            raise ValueError("the task is not complete")
        if queue.task is not completed:
            return None
        message = self._state.take_in(queue, completed.get_result())
        return None if message is None else _typed(message, data_type)


def wait_for_message(
    ctx: OrchestrationContext,
    name: str,
    *,
    timeout: timedelta | None = None,
    where: Where | None = None,
    data_type: Any = None,
) -> Steps:
    """Wait for a message that is no repeat; `yield from` gives a Received.

    where: only a message for which it holds; others are kept, in order, for later waits. data_type: what its data
    should become. timeout: from now; None waits for ever.

    Raises: MessageTimedOut; RuntimeError when the worker does not tell orchestrators their first message
    (`message_aware`); TypeError when the data does not fit.
    """
    state: _State = getattr(ctx, _ATTRIBUTE, None) or _state_of(ctx)
    queue = state.queues.get(name) or state.queue(name)
    if timeout is None and where is None and data_type is None:
        # The common case by the shortest way: replays come along here for every message.
        while queue.task is None and not queue.queue:
            queue.task = arrival = ctx.wait_for_external_event(name, data_type=Received)
            if arrival.is_complete:
                arrived = arrival.get_result()
            else:
                queue.waiting += 1
                try:
                    arrived = yield arrival
                except BaseException:
                    queue.waiting -= 1
                    queue.release()
                    raise
                queue.waiting -= 1
            if queue.task is arrival:
                message = state.take_in(queue, arrived)
                if message is not None:
                    return message
    return (yield from _wait(state, queue, timeout, where, data_type))


def continue_as_new(ctx: OrchestrationContext, new_input: Any, *, new_version: str | None = None) -> None:
    """Begin a new generation with `new_input`; return right after it.

    What an orchestration needs to go on is taken along: the message that started it, which messages it has seen, those
    that a filter passed over, and events that have arrived and were not read.

    Raises: RuntimeError when the worker does not tell orchestrators their first message (`message_aware`).
    """
    state: _State | None = getattr(ctx, _ATTRIBUTE, None)
    start = _known_start(ctx)
    inbox = start.get("inbox") if state is None else state.carried()
    ctx.continue_as_new(wrap_payload(new_input, origin_of(start), inbox), save_events=True, new_version=new_version)


class _EventQueue:
    """Messages of one name.

    queue: taken from the SDK and not by the orchestrator, with ascending numbers. task: the wait at hand, which also
    `wait_for_message` waits for. handed: whether somebody outside holds it. waiting: how many `wait_for_message` do.
    """

    __slots__ = ("handed", "name", "number", "queue", "task", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: list[tuple[int, Received]] = []
        self.number = 0
        self.task: CancellableTask[Any] | None = None
        self.handed = False
        self.waiting = 0

    def put(self, message: Received) -> None:
        self.number += 1
        self.queue.append((self.number, message))

    def arrival(self, ctx: OrchestrationContext) -> CancellableTask[Any]:
        """The wait for the next event."""
        if self.task is None:
            self.task = ctx.wait_for_external_event(self.name, data_type=Received)
        return self.task

    def lease(self, ctx: OrchestrationContext) -> CancellableTask[Any]:
        """The wait for the next message, kept ones first, for somebody who may cancel it."""
        found = self.task
        if found is None or found.is_cancelled:
            if self.queue:
                kept = CancellableTask[Any]()
                kept.complete(self.queue.pop(0))
                found = kept
            else:
                found = ctx.wait_for_external_event(self.name, data_type=Received)
            self.task = found
        if not self.handed:
            self.handed = True
            setattr(found, _ATTRIBUTE, self)
            # Others may wait for it too: they must not see it cancelled.
            setattr(found, "cancel", partial(self.give_back, found))  # noqa: B010 -- of this one task
        return found

    def give_back(self, found: Task[Any]) -> bool:
        """Whoever was handed the wait has lost interest. What `cancel` of the SDK tells: whether that came in time."""
        if self.task is not found or found.is_complete:
            return False
        self.handed = False
        self.release()
        return True

    def release(self) -> None:
        """When nobody waits any more, the next event of this name is for whoever asks the SDK for it."""
        found = self.task
        if found is not None and not (self.waiting or self.handed or found.is_complete):
            CancellableTask.cancel(found)
            self.task = None


class _State:
    """The inbox of one context; every replay builds it anew from the same events."""

    def __init__(self, ctx: OrchestrationContext, start: Mapping[str, Any]) -> None:
        self.ctx = ctx
        self._start = key_of(start)
        carried: Mapping[str, Any] = start.get("inbox") or {}
        self.seen = DeduplicationWindow(carried.get("seen", ""))
        if "remember" in carried:
            self.seen.limit = carried["remember"]
        self.queues: dict[str, _EventQueue] = {}
        for name, kept in carried.get("kept", ()):
            inside = envelope_body(kept) or {}
            self.queue(name).put(_received(name, inside, inside.get("data")))

    def queue(self, name: str) -> _EventQueue:
        # As the SDK has it, names differ in more than case
        folded = name.casefold()
        queue = self.queues.get(folded)
        if queue is None:
            queue = self.queues[folded] = _EventQueue(name)
        self.queues[name] = queue
        return queue

    def take_in(self, queue: _EventQueue, arrived: Any) -> Received | None:
        """What the completed wait brought; None for a repeat."""
        queue.task = None
        queue.handed = False
        if type(arrived) is Received:
            arrived.name = queue.name
            if arrived.inside is not None:
                key = key_of(arrived.inside)
                if key is not None and (key == self._start or not self.seen.add(key)):
                    self._drop(key)
                    return None
            return arrived
        if isinstance(arrived, tuple):
            kept: Received = arrived[1]
            return kept
        return _received(queue.name, None, arrived)  # an event without data

    def collect(self, queue: _EventQueue) -> None:
        """Put into the queue what the completed wait brought."""
        assert queue.task is not None
        arrived = queue.task.get_result()
        message = self.take_in(queue, arrived)
        if isinstance(arrived, tuple):
            queue.queue.insert(0, arrived)  # it was the oldest
        elif message is not None:
            queue.put(message)

    def _drop(self, key: Key) -> None:
        if not self.ctx.is_replaying:
            REPEATS.add("inbox")
            log.debug(
                "repeat dropped", action="repeat", instance=self.ctx.instance_id, message=key[0], route=key[1]
            )  # fmt: skip

    def carried(self) -> dict[str, Any]:
        """What the next generation begins with."""
        queues = dict.fromkeys(self.queues.values())  # each once, though it has several names
        for queue in queues:
            if queue.task is not None and queue.task.is_complete:
                self.collect(queue)
        messages = (message for queue in queues for _, message in queue.queue)
        kept = [[message.name, wrap_payload(message.data, message.origin)] for message in messages]
        inbox: dict[str, Any] = {"seen": self.seen.text(), "remember": self.seen.limit}
        return {**inbox, "kept": kept} if kept else inbox


def _wait(state: _State, queue: _EventQueue, timeout: timedelta | None, where: Where | None, data_type: Any) -> Steps:
    timer = None if timeout is None else state.ctx.create_timer(timeout)
    queue.waiting += 1
    looked_at = 0
    try:
        while True:
            arrival = queue.task
            if arrival is not None and arrival.is_complete:
                state.collect(queue)
            if queue.queue and queue.queue[-1][0] > looked_at:
                message = _take(queue, looked_at, where, data_type)
                if message is not None:
                    return message
                looked_at = queue.number
            arrival = queue.arrival(state.ctx)
            if arrival.is_complete:
                continue
            if timer is None:
                yield arrival
                continue
            if timer.is_complete:
                assert timeout is not None
                raise MessageTimedOut(queue.name, timeout)
            yield when_any([arrival, timer])
    finally:
        queue.waiting -= 1
        if timer is not None:
            timer.cancel()
        queue.release()


def _take(queue: _EventQueue, looked_at: int, where: Where | None, data_type: Any) -> Received | None:
    """The first message that the waiting one has not looked at and that it wants."""
    first = bisect_right(queue.queue, looked_at, key=itemgetter(0))
    for position in range(first, len(queue.queue)):
        message = _typed(queue.queue[position][1], data_type)
        if where is None or where(message):
            del queue.queue[position]
            return message
    return None


def _typed(message: Received, data_type: Any) -> Received:
    return (
        message
        if data_type is None
        else _received(message.name, message.inside, _CONVERTER.coerce(message.data, data_type))
    )


def _known_start(ctx: OrchestrationContext) -> Mapping[str, Any]:
    start = start_of(ctx)
    if start is None:
        raise RuntimeError(
            "this worker does not tell orchestrators which message started them; "
            "register them as `bridge.workflow.message_aware(orchestrator)`"
        )
    return start


def _state_of(ctx: OrchestrationContext) -> _State:
    state: _State | None = getattr(ctx, _ATTRIBUTE, None)
    if state is None:
        state = _State(ctx, _known_start(ctx))
        setattr(ctx, _ATTRIBUTE, state)
    return state
