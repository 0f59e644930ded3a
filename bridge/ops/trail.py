"""Copy of the audit on disk: bounded, shared by processes, and complete when a process is killed.

A change is noted before it begins, in a file that its process keeps locked. The note is removed when the line is
written. A note without its process becomes a line with the result `unknown`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bridge.config.model.bridge import AuditConfig
from bridge.system import forks, private

FILE = "audit.jsonl"
LOCK_SECONDS = 5.0
"""Seconds to wait for the lock of the copy: a process that froze with the lock must not block the others."""
UNKNOWN = {"result": "unknown", "error": "killed"}
"""Fields of a change whose process was killed before it could report the result."""

_DEFAULTS = AuditConfig()
_LOCK = "audit.lock"
_NOTES = "audit.pending"
_TAIL = 1024 * 1024
"""Bytes at the end of the copy in which the line of an orphaned note is searched."""
_ROOM = 4096
"""Least size of a note in bytes: its line then fits when the disk has become full."""
_LONGEST_NOTE = 1024 * 1024
_BLOCK = 64 * 1024
"""Bytes of one read from the end."""


@dataclass(slots=True)
class ChangeNote:
    """Note of a change that has begun. descriptor: holds the lock that shows that its process lives."""

    id: str
    path: Path
    descriptor: int


class TrailPosition(NamedTuple):
    """Position in a copy: before it are the bytes of a file up to the offset, and the older files.

    file: digest of the first line of the file, which survives the renaming of files.
    """

    file: str
    offset: int


class AuditTrail:
    """Copy of the audit in one directory. own: the directory contains nothing else."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int = _DEFAULTS.max_bytes,
        max_files: int = _DEFAULTS.files,
        *,
        own: bool = False,
    ) -> None:
        self.directory = directory
        self._make = private.directory if own else private.missing_directory
        self._max_bytes = max_bytes
        self._max_files = max_files

    def begin(self, line: Mapping[str, Any]) -> ChangeNote:
        """Note a change before it is made. `append` with the note ends it. Raises: OSError."""
        with self._locked():
            private.directory(self.directory / _NOTES)
            id_ = secrets.token_hex(8)
            path = self.directory / _NOTES / id_
            descriptor = forks.open_lock(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _write(descriptor, _text({**line, **UNKNOWN, "id": id_}).ljust(_ROOM))
            except BaseException:
                path.unlink(missing_ok=True)
                forks.close_lock(descriptor)
                raise
        return ChangeNote(id_, path, descriptor)

    def append(self, line: Mapping[str, Any], note: ChangeNote | None = None) -> None:
        """Add a line and flush it to disk. note: note of the change; it keeps a line that does not fit until `settle`.

        Raises: OSError.
        """
        if note is None:
            with self._locked():
                self._add(_text(line))
            return
        text = _text({**line, "id": note.id})
        try:
            with self._locked():
                self._add(text)
                note.path.unlink(missing_ok=True)
        except OSError:
            with suppress(OSError):
                if len(text) <= os.fstat(note.descriptor).st_size:
                    os.pwrite(note.descriptor, text, 0)
                    os.ftruncate(note.descriptor, len(text))
            raise
        finally:
            forks.close_lock(note.descriptor)

    def settle(self, report: Callable[[Mapping[str, Any]], None]) -> None:
        """Add the lines of changes whose process was killed, and pass each to the callback. Raises: OSError."""
        if not (self.directory / _NOTES).is_dir():
            return
        with self._locked():
            for path, line in self._left():
                if line is not None:
                    self._add(_text(line))
                    report(line)
                path.unlink(missing_ok=True)

    def narrow(self) -> None:
        """Restrict existing files and directories to this user. Raises: OSError."""
        if self.directory.is_dir():
            self._make(self.directory)
            private.narrow([*self.files(), self.directory / _LOCK, self.directory / _NOTES])

    def files(self) -> list[Path]:
        """Existing files of the copy, oldest first."""
        return [path for path in reversed([self._numbered(n) for n in range(self._max_files)]) if path.is_file()]

    def read(self) -> Iterator[dict[str, Any]]:
        """Lines of the copy, oldest first, without damaged ones. Raises: OSError."""
        with suppress(FileNotFoundError), (self.directory / _LOCK).open("rb") as lock:
            # No file is renamed before it is opened
            _lock(lock.fileno(), fcntl.LOCK_SH)
            opened = [path.open("rb") for path in self.files()]
            left = [line for _, line in self._left() if line is not None]
            fcntl.flock(lock, fcntl.LOCK_UN)
            for file in opened:
                with file:
                    for text in file:
                        if (line := _parsed(text)) is not None:
                            yield line
            yield from left

    def read_back(self, before: TrailPosition | None = None) -> Generator[tuple[TrailPosition, dict[str, Any] | None]]:
        """Lines of the copy, newest first, each with its place. Only as much is read as is taken. Raises: OSError.

        The first pair has no line: its place is that at which the read begins. Damaged lines are None, too. Changes
        whose process was killed have their line after `settle` only.
        before: only lines before this place.
        """
        with ExitStack() as opened:
            files = self._opened_back(opened)
            marks = [_mark(file) for file in files]
            if before is None:
                before = TrailPosition(marks[0], os.fstat(files[0].fileno()).st_size) if files else TrailPosition("", 0)
            elif before.file not in marks:  # the oldest files are deleted first
                return
            yield before, None
            end: int | None = before.offset
            for mark, file in zip(marks, files, strict=True):
                if end is not None and mark != before.file:
                    continue
                for offset, text in _lines_back(file, end):
                    yield TrailPosition(mark, offset), _parsed(text)
                end = None

    def _opened_back(self, opened: ExitStack) -> list[BinaryIO]:
        """Files of the copy with lines, newest first."""
        try:
            lock = opened.enter_context((self.directory / _LOCK).open("rb"))
        except FileNotFoundError:
            return []
        _lock(lock.fileno(), fcntl.LOCK_SH)  # no file is renamed before it is opened
        files: list[BinaryIO] = [opened.enter_context(path.open("rb")) for path in reversed(self.files())]
        fcntl.flock(lock, fcntl.LOCK_UN)
        return [file for file in files if os.fstat(file.fileno()).st_size]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._make(self.directory)
        lock = forks.open_lock(self.directory / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            _lock(lock, fcntl.LOCK_EX)
            yield
        finally:
            forks.close_lock(lock)

    def _add(self, text: bytes) -> None:
        file = private.opened(self.directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size and size + len(text) > self._max_bytes:
                self._put_aside()
                os.close(file)
                file = private.opened(self.directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                size = 0
            elif size and os.pread(file, 1, size - 1) != b"\n":
                text = b"\n" + text  # a crash has cut the line before
            try:
                _write(file, text)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, size)
                raise
            os.fsync(file)
        finally:
            os.close(file)

    def _left(self) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """Notes whose process has ended, with their lines; None for a line that is in the copy already."""
        for path in sorted((self.directory / _NOTES).glob("*")):
            try:
                descriptor = forks.open_lock(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                line = _parsed(os.read(descriptor, _LONGEST_NOTE))
            except OSError:
                continue
            finally:
                forks.close_lock(descriptor)
            yield path, line if line is not None and not self._has(path.name) else None

    def _has(self, id_: str) -> bool:
        """True when the line of a note is among the last lines."""
        wanted = f'"id": "{id_}"'.encode()
        for path in reversed(self.files()[-2:]):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                if wanted in file.read():
                    return True
        return False

    def _numbered(self, number: int) -> Path:
        return self.directory / (f"{FILE}.{number}" if number else FILE)

    def _put_aside(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        if self._max_files == 1:
            self._numbered(0).unlink()


def _mark(file: BinaryIO) -> str:
    return blake2b(os.pread(file.fileno(), _ROOM, 0).partition(b"\n")[0], digest_size=8).hexdigest()


def _lines_back(file: BinaryIO, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Lines of a file from the last to the first, with their offsets. end: bytes of the file to read; None: all."""
    begin = os.fstat(file.fileno()).st_size if end is None else end
    rest = b""
    while begin:
        size = min(begin, _BLOCK)
        begin -= size
        lines = (os.pread(file.fileno(), size, begin) + rest).split(b"\n")
        # The first line of the block may begin in the block before
        rest = lines[0]
        offset = begin + sum(len(line) + 1 for line in lines)
        for line in reversed(lines[1:]):
            offset -= len(line) + 1
            if line:
                yield offset, line
    if rest:
        yield 0, rest


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, default=str).encode() + b"\n"


def _parsed(text: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        line = json.loads(text)
        if isinstance(line, dict):
            return line
    return None


def _write(descriptor: int, text: bytes) -> None:
    """Write all bytes: a write to a disk that becomes full may be partial without an error."""
    left = memoryview(text)
    while left:
        left = left[os.write(descriptor, left) :]


def _lock(descriptor: int, kind: int) -> None:
    """Lock a file. Raises: TimeoutError when another process holds the lock for LOCK_SECONDS."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"another process has locked {_LOCK} for {LOCK_SECONDS:g} s; is it frozen?"
                ) from None
            time.sleep(0.01)
        else:
            return
