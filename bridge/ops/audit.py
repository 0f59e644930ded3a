"""Audit of every change that a person makes: one line in the log `bridge.audit`, and a bounded copy on disk.

Every command and every operation of the API that changes something runs inside `audited` or `audited_async`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from bridge.core.errors import BridgeError, wire_name
from bridge.ops.trail import AuditTrail, ChangeNote

_LONGEST = 1000
_MOST = 100
_WIDEST = 32 * 1024
"""Most bytes of a filter. A larger one is left out."""

_log = logging.getLogger("bridge.audit")
_log.setLevel(logging.INFO)  # these lines do not depend on the configured log level
_own = logging.getLogger("bridge.ops.audit")


@wire_name("bridge.ops.audit.Denied")
class Denied(BridgeError):
    """The caller has no permission. actor: the caller, where it is known."""

    reason = "denied"

    def __init__(self, detail: str = "", actor: Actor | None = None) -> None:
        super().__init__(detail)
        self.actor = actor


@dataclass(frozen=True, slots=True)
class Actor:
    """Person that makes a change.

    uid: user id of the operating system; None for a caller over the network.
    via: `cli`, `socket`; over the network `token`, `oidc`, `page` for a browser with a session, or `http` without any.
    """

    name: str
    uid: int | None
    via: Literal["cli", "socket", "token", "oidc", "page", "http"]


@dataclass(slots=True)
class AuditedChange:
    """One change, from its beginning. `fail` and `deny` report a failure without an exception.

    action: like `instances.terminate`.
    target: the changed thing.
    filter: selection and options, without payload.
    """

    actor: Actor
    action: str
    target: str
    filter: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    result: Literal["done", "denied", "failed"] = "done"
    error: str | None = None

    def fail(self, error: str) -> None:
        """Note that the change has failed. error: a word, never a text: that may quote anything."""
        self.result, self.error = "failed", error

    def deny(self) -> None:
        """Note that the caller had no permission."""
        self.result, self.error = "denied", Denied.reason

    def describe(self, *, target: str | None = None, filter_: Mapping[str, Any] | None = None) -> None:
        """Name what is known only now. None keeps a member."""
        self.target = self.target if target is None else target
        self.filter = self.filter if filter_ is None else filter_

    def line(self) -> dict[str, Any]:
        """Fields of the audit line, each of a bounded length."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        actor = asdict(self.actor)
        return {
            "time": now,
            "actor": actor.pop("name"),
            **actor,
            "action": self.action,
            "target": _short(self.target),
            "filter": self._filter(),
            "result": self.result,
            "error": self.error,
            "reason": _short(self.reason),
        }

    def _filter(self) -> Any:
        found = _short({name: value for name, value in self.filter.items() if value not in (None, (), [])})
        size = len(json.dumps(found, default=str))
        return found if size <= _WIDEST else {"…": f"{size} bytes"}


@contextmanager
def audited(trail: AuditTrail | None, change: AuditedChange) -> Iterator[AuditedChange]:
    """Run a change, and write its line with any result. trail: None where there is no place for a copy."""
    note = _noted(trail, change)
    try:
        yield change
    except BaseException as error:
        _failed(change, error)
        raise
    finally:
        record(trail, change, note)


@asynccontextmanager
async def audited_async(trail: AuditTrail, change: AuditedChange) -> AsyncIterator[AuditedChange]:
    """Run a change on an event loop, which does not wait for the disk; otherwise as `audited`."""
    note = await asyncio.to_thread(_noted, trail, change)
    try:
        yield change
    except BaseException as error:
        _failed(change, error)
        raise
    finally:
        await asyncio.shield(asyncio.to_thread(record, trail, change, note))


def record(trail: AuditTrail | None, change: AuditedChange, note: ChangeNote | None = None) -> None:
    """Write the line to the log and to the copy. A failure of the copy is logged and stops nothing."""
    line = change.line()
    _log.info("%s %s", change.action, change.result, extra=line)
    if trail is None:
        return
    try:
        trail.append(line, note)
    except OSError as error:
        # A command has no log of its own: only its output remains
        whole = "" if _log.hasHandlers() else f"; it is {json.dumps(line, default=str)}"
        _own.warning(
            "the audit line of %s cannot be written to %s: %s%s", change.action, trail.directory, error.strerror, whole
        )


def settle(trail: AuditTrail) -> None:
    """Write the lines of changes whose process was killed. Failures are logged."""
    try:
        trail.settle(lambda line: _log.info("%s %s", line.get("action"), line.get("result"), extra=dict(line)))
    except OSError as error:
        _own.warning("audit lines of killed processes cannot be written to %s: %s", trail.directory, error.strerror)


def _noted(trail: AuditTrail | None, change: AuditedChange) -> ChangeNote | None:
    """Note the change before it is made; None on failure, which the line at its end reports."""
    if trail is None:
        return None
    settle(trail)
    try:
        return trail.begin(change.line())
    except OSError:
        return None


def user(uid: int | None = None, via: Literal["cli", "socket"] = "cli") -> Actor:
    """User of this process, or the user with this id."""
    uid = os.getuid() if uid is None else uid
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Actor(name, uid, via)


def _failed(change: AuditedChange, error: BaseException) -> None:
    if isinstance(error, Denied):
        change.deny()
    else:
        change.fail(word_of(error))


def word_of(error: BaseException) -> str:
    """Word of an error: its reason; `unknown_name` for a plain LookupError, as in the API; else its class."""
    if isinstance(error, BridgeError):
        return error.reason
    return "unknown_name" if type(error) is LookupError else type(error).__name__


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {_short(str(name)): _short(each) for name, each in list(value.items())[:_MOST]}
    if isinstance(value, list | tuple):
        more = [f"… ({len(value)} in all)"] if len(value) > _MOST else []
        return [_short(each) for each in value[:_MOST]] + more
    return value
