"""Answer of a call: its refusal, a gRPC status with a sentence, and the reply that takes the answer to the caller.

The facts of some refusals are read by clients. They travel in the sentence, because every version of the engine and
every client library passes it on; only this module and `bounds.py` make and read these sentences.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc


@dataclass(frozen=True, slots=True)
class Conflict:
    """Facts of a refusal with ALREADY_EXISTS, as of the moment of the refusal.

    status: name of the existing instance's status; ANSWERED for an event that is accepted once.
    is_repeat: True when the refused call and the accepted one come from the same message (`HostRules`).
    """

    status: str
    is_repeat: bool


ANSWERED = "ANSWERED"

EVENT_CONFIRMED = ("bridge-event", "confirmed")
"""Metadata behind the answer to an event that is certain to reach its instance. Other clients ignore it."""

DEFERRED: Any = object()
"""Placeholder for an answer that follows later."""

_CONFLICT = re.compile(r" \[([A-Z]+), (this|another) message\]$")
_UNREAD_FULL = re.compile(r"The instance has \d+ unread events of \d+ bytes; no further event is taken")


class Rejection(Exception):
    """Raised to end a call with `code` and `details`, before any change."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


invalid_argument = partial(Rejection, grpc.StatusCode.INVALID_ARGUMENT)
precondition = partial(Rejection, grpc.StatusCode.FAILED_PRECONDITION)
exhausted = partial(Rejection, grpc.StatusCode.RESOURCE_EXHAUSTED)
unavailable = partial(Rejection, grpc.StatusCode.UNAVAILABLE)
internal = partial(Rejection, grpc.StatusCode.INTERNAL)


def not_found(instance_id: str) -> Rejection:
    return Rejection(grpc.StatusCode.NOT_FOUND, f"Orchestration instance '{instance_id[:256]}' not found")


def unread_full(events: int, size: int) -> Rejection:
    return exhausted(f"The instance has {events} unread events of {size} bytes; no further event is taken")


def is_unread_full(details: str) -> bool:
    """True for the details of `unread_full`, which quote no payload."""
    return _UNREAD_FULL.fullmatch(details) is not None


def already_exists(details: str, conflict: Conflict) -> Rejection:
    sender = "this" if conflict.is_repeat else "another"
    return Rejection(grpc.StatusCode.ALREADY_EXISTS, f"{details} [{conflict.status}, {sender} message]")


def read_conflict(details: str) -> Conflict | None:
    """Read the facts in the details of `already_exists`; None for the refusal of another engine."""
    found = _CONFLICT.search(details)
    return None if found is None else Conflict(found[1], found[2] == "this")


def instance_finished(instance_id: str) -> Rejection:
    return precondition(f"Orchestration instance '{instance_id[:256]}' has finished")


class Reply(Protocol):
    """Caller's side of one call. `settle` takes a result, or an exception to raise."""

    def settle(self, outcome: Any) -> None: ...


class ThreadReply:
    """Reply to a thread that blocks."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def settle(self, outcome: Any) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class LoopReply:
    """Reply to a coroutine. Many answers enter their event loop with one wake-up."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def settle(self, outcome: Any) -> None:
        settle_all([(self, outcome)])


def settle_all(answers: Iterable[tuple[Reply, Any]]) -> None:
    """Settle several replies."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for reply, outcome in answers:
        if isinstance(reply, LoopReply):
            by_loop.setdefault(reply.loop, []).append((reply.future, outcome))
        else:
            reply.settle(outcome)
    for loop, settled in by_loop.items():
        # A closed loop has no waiting callers.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_futures, settled)


def _settle_futures(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in settled:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
