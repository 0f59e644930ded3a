"""Messages for an orchestration, each delivered once.

Brokers deliver at least once, and so does the bridge. Every message that the bridge raises has an id. An inbox drops
repeats. It remembers the last ids in the orchestration's own state, which replay rebuilds and `continue_as_new`
keeps.
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

from bridge.core.deduplication import REMEMBERED, DeduplicationWindow
from bridge.core.errors import wire_name
from bridge.core.origin import CommandKey, MessageOrigin, envelope_body, key_of, origin_of, wrap_payload
from bridge.workflow.converter import DataConverter
from bridge.workflow.messages import REPEATS, EnvelopeArgument, start_of
from bridge.workflow.tasks import Steps

log = structlog.get_logger("bridge.workflow")

_ATTRIBUTE = "_bridge_inbox"
_CONVERTER = DataConverter()


@wire_name("bridge.workflow.inbox.MessageTimedOut")
class MessageTimedOut(TimeoutError):
    """Raised when no message arrives in time."""

    def __init__(self, name: str, timeout: timedelta) -> None:
        super().__init__(f"no message {name!r} within {timeout}")
        self.name = name


class Received(EnvelopeArgument):
    """A message as an orchestration receives it.

    name: name of the event.
    data: JSON value, or a value of the requested type.
    """

    __slots__ = ("name",)
    name: str

    @property
    def origin(self) -> MessageOrigin | None:
        """Origin of the message.

        None if a client other than the bridge raised it without an envelope; it never counts as a repeat.
        """
        return None if self.inside is None else origin_of(self.inside)

    def __repr__(self) -> str:
        return f"Received({self.name!r}, from {self.origin})"


def _received(name: str, inside: Mapping[str, Any] | None, data: Any) -> Received:
    message = Received(inside, data)
    message.name = name
    return message


Where = Callable[[Received], bool]
"""Filter of messages. The function must be deterministic, because every replay calls it again."""


class Inbox:
    """Inbox of an orchestration. All `Inbox(ctx)` objects of one context share the same inbox.

    remember: number of remembered messages, at least 1; by default 1,000. The message that started the orchestration
    is always remembered.
    Raises: RuntimeError if the worker does not pass orchestrators their first message (`message_aware`).
    """

    def __init__(self, ctx: OrchestrationContext, *, remember: int | None = None) -> None:
        self._state = _state_of(ctx)
        if remember is not None:
            if remember < 1:
                raise ValueError("`remember` must be at least 1")
            self._state.remember(remember)

    def task(self, name: str) -> CancellableTask[Any]:
        """Create a task that completes with the next message of this name. Pass the completed task to `accept`.

        Until the task is accepted or cancelled, every call returns the same task. A wait that lost a race thus
        consumes no message.
        """
        return self._state.queue(name).lease(self._state.ctx)

    def accept(self, completed: Task[Any], *, data_type: Any = None) -> Received | None:
        """Message of a completed task; None if it is a repeat or was already taken.

        Raises: ValueError if the task is not complete or not of this inbox; TypeError if the data does not fit.
        """
        queue: _EventQueue | None = getattr(completed, _ATTRIBUTE, None)
        if queue is None:
            raise ValueError("not a task of this inbox")
        if not completed.is_complete:
            raise ValueError("the task is not complete")
        if queue.task is not completed:
            return None
        message = self._state.accept(queue, completed.get_result())
        return None if message is None else _typed(message, data_type)


def wait_for_message(
    ctx: OrchestrationContext,
    name: str,
    *,
    timeout: timedelta | None = None,
    where: Where | None = None,
    data_type: Any = None,
) -> Steps:
    """Wait for a message that is not a repeat; `yield from` returns a Received.

    where: condition for the message. Other messages are kept, in order, for later waits.
    data_type: type to which the data is converted.
    timeout: measured from now; None waits forever.
    Raises: MessageTimedOut; RuntimeError if the worker does not pass orchestrators their first message
    (`message_aware`); TypeError if the data does not fit.
    """
    state: _InboxState = getattr(ctx, _ATTRIBUTE, None) or _state_of(ctx)
    queue = state.queues.get(name) or state.queue(name)
    if timeout is None and where is None and data_type is None:
        # Fast path of the common case, because replays run it for every message
        while queue.is_idle():
            arrival = queue.arrival(ctx)
            if arrival.is_complete:
                arrived = arrival.get_result()
            else:
                queue.begin_wait()
                try:
                    arrived = yield arrival
                except BaseException:
                    queue.end_wait()
                    queue.release()
                    raise
                queue.end_wait()
            if queue.task is arrival:
                message = state.accept(queue, arrived)
                if message is not None:
                    return message
    return (yield from _wait(state, queue, timeout, where, data_type))


def continue_as_new(ctx: OrchestrationContext, new_input: Any, *, new_version: str | None = None) -> None:
    """Continue as new with `new_input`; return right after the call.

    The next generation keeps the message that started the orchestration, the ids of the messages seen, messages that
    a filter passed over, and events that have arrived and were not read.
    Raises: RuntimeError if the worker does not pass orchestrators their first message (`message_aware`).
    """
    state: _InboxState | None = getattr(ctx, _ATTRIBUTE, None)
    start = _known_start(ctx)
    inbox = start.get("inbox") if state is None else state.carried()
    ctx.continue_as_new(wrap_payload(new_input, origin_of(start), inbox), save_events=True, new_version=new_version)


class _EventQueue:
    """Messages of one event name.

    queue: messages taken from the SDK but not yet by the orchestrator, with ascending numbers.
    task: the current wait, which `wait_for_message` uses too.
    handed: True while a caller of `task` holds the wait.
    waiting: number of `wait_for_message` calls that wait.
    """

    __slots__ = ("handed", "name", "number", "queue", "task", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: list[tuple[int, Received]] = []
        self.number = 0
        self.task: CancellableTask[Any] | None = None
        self.handed = False
        self.waiting = 0

    def is_idle(self) -> bool:
        """True without a current wait and without kept messages."""
        return self.task is None and not self.queue

    def begin_wait(self) -> None:
        self.waiting += 1

    def end_wait(self) -> None:
        self.waiting -= 1

    def end_task(self) -> None:
        """Forget the current wait, whose message was taken."""
        self.task = None
        self.handed = False

    def put(self, message: Received) -> None:
        self.number += 1
        self.queue.append((self.number, message))

    def arrival(self, ctx: OrchestrationContext) -> CancellableTask[Any]:
        """Task that completes with the next event."""
        if self.task is None:
            self.task = ctx.wait_for_external_event(self.name, data_type=Received)
        return self.task

    def lease(self, ctx: OrchestrationContext) -> CancellableTask[Any]:
        """Task that completes with the next message, kept messages first. Its caller may cancel the task."""
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
            # The wait may be shared: its other users must not see it cancelled
            setattr(found, "cancel", partial(self.give_back, found))  # noqa: B010 -- of this one task
        return found

    def give_back(self, found: Task[Any]) -> bool:
        """End the lease of a task. Returns True if the task was still incomplete, like `cancel` of the SDK."""
        if self.task is not found or found.is_complete:
            return False
        self.handed = False
        self.release()
        return True

    def release(self) -> None:
        """Cancel the wait if it has no user. The SDK then gives the next event of this name to its own waits."""
        found = self.task
        if found is not None and not (self.waiting or self.handed or found.is_complete):
            CancellableTask.cancel(found)
            self.task = None


class _InboxState:
    """Inbox of one context. Every replay builds it from the same events."""

    def __init__(self, ctx: OrchestrationContext, start: Mapping[str, Any]) -> None:
        self.ctx = ctx
        self._start = key_of(start)
        carried: Mapping[str, Any] = start.get("inbox") or {}
        self.seen = DeduplicationWindow(carried.get("seen", ""), carried.get("remember", REMEMBERED))
        self.queues: dict[str, _EventQueue] = {}
        for name, kept in carried.get("kept", ()):
            inside = envelope_body(kept) or {}
            self.queue(name).put(_received(name, inside, inside.get("data")))

    def remember(self, limit: int) -> None:
        """Remember this number of messages from now on."""
        if limit != self.seen.limit:
            self.seen = DeduplicationWindow(self.seen.text(), limit)

    def queue(self, name: str) -> _EventQueue:
        # As in the SDK, names are case-insensitive
        folded = name.casefold()
        queue = self.queues.get(folded)
        if queue is None:
            queue = self.queues[folded] = _EventQueue(name)
        self.queues[name] = queue
        return queue

    def accept(self, queue: _EventQueue, arrived: Any) -> Received | None:
        """Message that the completed wait returned; None for a repeat."""
        queue.end_task()
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
        """Move the message of the completed wait into the queue."""
        assert queue.task is not None
        arrived = queue.task.get_result()
        message = self.accept(queue, arrived)
        if isinstance(arrived, tuple):
            queue.queue.insert(0, arrived)  # it was the oldest
        elif message is not None:
            queue.put(message)

    def _drop(self, key: CommandKey) -> None:
        if not self.ctx.is_replaying:
            REPEATS.add("inbox")
            log.debug(
                "repeat dropped", action="repeat", instance=self.ctx.instance_id, message=key[0], route=key[1]
            )  # fmt: skip

    def carried(self) -> dict[str, Any]:
        """State with which the next generation starts."""
        queues = dict.fromkeys(self.queues.values())  # each queue once, although it has several names
        for queue in queues:
            if queue.task is not None and queue.task.is_complete:
                self.collect(queue)
        messages = (message for queue in queues for _, message in queue.queue)
        kept = [[message.name, wrap_payload(message.data, message.origin)] for message in messages]
        inbox: dict[str, Any] = {"seen": self.seen.text(), "remember": self.seen.limit}
        return {**inbox, "kept": kept} if kept else inbox


def _wait(
    state: _InboxState, queue: _EventQueue, timeout: timedelta | None, where: Where | None, data_type: Any
) -> Steps:
    timer = None if timeout is None else state.ctx.create_timer(timeout)
    queue.begin_wait()
    last_read = 0
    try:
        while True:
            arrival = queue.task
            if arrival is not None and arrival.is_complete:
                state.collect(queue)
            if queue.queue and queue.queue[-1][0] > last_read:
                message = _take(queue, last_read, where, data_type)
                if message is not None:
                    return message
                last_read = queue.number
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
        queue.end_wait()
        if timer is not None:
            timer.cancel()
        queue.release()


def _take(queue: _EventQueue, last_read: int, where: Where | None, data_type: Any) -> Received | None:
    """First message that the caller has not examined yet and that fits `where`; None if there is none."""
    first = bisect_right(queue.queue, last_read, key=itemgetter(0))
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
            "this worker does not pass orchestrators the message that started them; "
            "register them as `bridge.workflow.message_aware(orchestrator)`"
        )
    return start


def _state_of(ctx: OrchestrationContext) -> _InboxState:
    state: _InboxState | None = getattr(ctx, _ATTRIBUTE, None)
    if state is None:
        state = _InboxState(ctx, _known_start(ctx))
        setattr(ctx, _ATTRIBUTE, state)
    return state
