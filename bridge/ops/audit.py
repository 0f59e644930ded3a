"""The trace of every change that a person makes: one line in the log `bridge.audit`, and a bounded copy on disk.

Every command and every operation of the API that changes something runs inside of `audited` or `audited_async`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pwd
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bridge import private
from bridge.errors import BridgeError, wire_name

FILE = "audit.jsonl"
MAX_BYTES = 4 * 1024 * 1024
"""Size of a file of the copy; a full one is put aside."""
MAX_FILES = 8
"""Files of the copy, the one that is written among them; the oldest is removed for a new one."""

_LOCK = "audit.lock"
_LONGEST = 1000
_MOST = 100

_log = logging.getLogger("bridge.audit")
_log.setLevel(logging.INFO)  # Whatever the level of the log: these lines are not a matter of taste
_own = logging.getLogger("bridge.ops.audit")


@wire_name("bridge.ops.audit.Denied")
class Denied(BridgeError):
    """The caller may not do this."""

    reason = "denied"


@dataclass(frozen=True, slots=True)
class Actor:
    """The person who acts. uid: of the operating system. via: the way in, `cli` or `socket`."""

    name: str
    uid: int
    via: Literal["cli", "socket"]


@dataclass(slots=True)
class Change:
    """One change, from its beginning. A body may set `result` and `error` where no exception tells of a failure.

    action: like `instances.terminate`. target: the thing that is changed. filter: its selection, and how; no payload.
    """

    actor: Actor
    action: str
    target: str
    filter: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    result: Literal["done", "denied", "failed"] = "done"
    error: str | None = None

    def line(self) -> dict[str, Any]:
        """The fields of the line, each of a bounded length."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        actor = asdict(self.actor)
        return {
            "time": now,
            "actor": actor.pop("name"),
            **actor,
            "action": self.action,
            "target": _short(self.target),
            "filter": _short({name: value for name, value in self.filter.items() if value not in (None, (), [])}),
            "result": self.result,
            "error": self.error,
            "reason": _short(self.reason),
        }


class Trail:
    """The copy in one directory, which processes share. own: the directory is for nothing else."""

    def __init__(
        self, directory: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES, *, own: bool = False
    ) -> None:
        self.directory = directory
        self._make = private.directory if own else private.missing_directory
        self._max_bytes = max_bytes
        self._max_files = max_files

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line and bring it to disk. Raises: OSError."""
        self._make(self.directory)
        text = json.dumps(line, default=str).encode() + b"\n"
        lock = private.opened(self.directory / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = private.opened(self.directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                size = os.fstat(file).st_size
                if size and size + len(text) > self._max_bytes:
                    self._put_aside()
                    os.close(file)
                    file = private.opened(self.directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                elif size and os.pread(file, 1, size - 1) != b"\n":
                    text = b"\n" + text  # the line before was cut by a crash
                os.write(file, text)
                os.fsync(file)
            finally:
                os.close(file)
        finally:
            os.close(lock)

    def narrow(self) -> None:
        """Make what is there this user's alone. Raises: OSError."""
        if self.directory.is_dir():
            self._make(self.directory)
            private.narrow([*self.files(), self.directory / _LOCK])

    def files(self) -> list[Path]:
        """The files of the copy that are there, the oldest first."""
        return [path for path in reversed([self._numbered(n) for n in range(self._max_files)]) if path.is_file()]

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, the oldest first; damaged ones are left out. Raises: OSError."""
        with suppress(FileNotFoundError), (self.directory / _LOCK).open("rb") as lock:
            # So that no file changes its name before it is opened
            fcntl.flock(lock, fcntl.LOCK_SH)
            opened = [path.open("rb") for path in self.files()]
            fcntl.flock(lock, fcntl.LOCK_UN)
            for file in opened:
                with file:
                    for text in file:
                        with suppress(ValueError):
                            line = json.loads(text)
                            if isinstance(line, dict):
                                yield line

    def _numbered(self, number: int) -> Path:
        return self.directory / (f"{FILE}.{number}" if number else FILE)

    def _put_aside(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        if self._max_files == 1:
            self._numbered(0).unlink()


@contextmanager
def audited(trail: Trail | None, change: Change) -> Iterator[Change]:
    """Do a change and leave its line, however it ends. trail: None where there is no place for a copy."""
    try:
        yield change
    except BaseException as error:
        _failed(change, error)
        raise
    finally:
        record(trail, change)


@asynccontextmanager
async def audited_async(trail: Trail, change: Change) -> AsyncIterator[Change]:
    """The same on an event loop, which does not wait for the disk."""
    try:
        yield change
    except BaseException as error:
        _failed(change, error)
        raise
    finally:
        await asyncio.shield(asyncio.to_thread(record, trail, change))


def record(trail: Trail | None, change: Change) -> None:
    """Write the line: to the log, and to the copy, whose failure is logged and stops nothing."""
    line = change.line()
    _log.info("%s %s", change.action, change.result, extra=line)
    if trail is None:
        return
    try:
        trail.append(line)
    except OSError as error:
        _own.warning("the audit line of %s cannot be kept in %s: %s", change.action, trail.directory, error.strerror)


def user(uid: int | None = None, via: Literal["cli", "socket"] = "cli") -> Actor:
    """The user of this process, or the one with this id."""
    uid = os.getuid() if uid is None else uid
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Actor(name, uid, via)


def _failed(change: Change, error: BaseException) -> None:
    change.result = "denied" if isinstance(error, Denied) else "failed"
    # Only the word: the sentence may quote anything
    change.error = error.reason if isinstance(error, BridgeError) else type(error).__name__


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {_short(str(name)): _short(each) for name, each in list(value.items())[:_MOST]}
    if isinstance(value, list | tuple):
        more = [f"… ({len(value)} in all)"] if len(value) > _MOST else []
        return [_short(each) for each in value[:_MOST]] + more
    return value
