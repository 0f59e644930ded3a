"""Files of large payloads: one encrypted file a payload, in one directory beside the engine's file.

A file is written whole, flushed to disk, and then gets its name; it is never changed. Its key stands in its reference
alone: encryption of the engine's file covers the payload too, and without the engine's row nobody reads it.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.core.errors import LargePayloadLost, LargePayloadRefused, PayloadStoreUnavailable
from bridge.large_payloads.reference import HEAD_BYTES, Reference
from bridge.system import forks, private

_NONCE = bytes(12)
"""Nonce of every file: each key encrypts one file."""

TAG_BYTES = 16
"""Bytes that a file is larger than its payload."""

_PARTIAL = ".partial"
_HOLD = ".hold"


def directory_of(path: Path) -> Path:
    """Directory with the payloads of an engine's file, or of a copy of one."""
    return path.with_name(f"{path.name}.payloads")


class PayloadFiles:
    """Directory with the files of one engine. Methods block, and may be called from any thread."""

    def __init__(self, directory: Path, limit: int = sys.maxsize) -> None:
        """Create the object; make no directory. limit: largest payload that is written or read, in bytes."""
        self.directory = directory
        self._limit = limit

    def path_of(self, name: str) -> Path:
        return self.directory / name[:2] / name

    def write(self, payload: bytes) -> Reference:
        """Write a payload in UTF-8 to a new file, and flush it to disk.

        Raises: LargePayloadRefused (larger than `payloads.max`), PayloadStoreUnavailable.
        """
        size = len(payload)
        if size > self._limit:
            raise too_large(size, self._limit)
        reference, content = seal(payload)
        try:
            with self.incoming(reference.name) as file:
                file.write(content)
                file.finish()
        except OSError as error:
            raise PayloadStoreUnavailable(f"a payload of {size} bytes cannot be written: {_cause(error)}") from error
        return reference

    def incoming(self, name: str) -> IncomingFile:
        """Begin a file of this name, which no other file has. Raises: OSError."""
        path = self.path_of(name)
        if not path.parent.exists():
            private.directory(path.parent)
            private.flush_directory(self.directory)
            private.flush_directory(self.directory.parent)
        return IncomingFile(path)

    def content(self, name: str) -> BinaryIO:
        """Open a file as it lies on disk. Raises: OSError."""
        return open(private.opened(self.path_of(name), os.O_RDONLY), "rb", buffering=0)  # noqa: PTH123 -- a descriptor has no path; the caller closes it

    def read(self, reference: Reference) -> bytes:
        """Read a payload, and check that it is the one that was written.

        Raises: LargePayloadLost (missing or damaged), LargePayloadRefused (larger than `payloads.max`),
        PayloadStoreUnavailable.
        """
        if reference.size > self._limit:
            raise too_large(reference.size, self._limit)
        path = self.path_of(reference.name)
        try:
            with self.content(reference.name) as stored:
                if os.fstat(stored.fileno()).st_size != reference.size + TAG_BYTES:
                    raise LargePayloadLost(f"payload {path}: the file was cut off or altered; restore it from a backup")
                found = stored.read()
        except FileNotFoundError:
            raise LargePayloadLost(
                f"payload {path}: there is no such file; restore it from a backup, or check `payloads` of the engine"
            ) from None
        except OSError as error:
            raise PayloadStoreUnavailable(f"payload {path} cannot be read: {_cause(error)}") from error
        return unseal(reference, found, str(path))

    def restore(self, text: str) -> str:
        """Payload of the text of a reference. Raises: as `read`."""
        try:
            return self.read(Reference.parse(text)).decode()
        except ValueError as error:
            raise LargePayloadLost(f"a large payload cannot be read: {error}") from None

    def touch(self, name: str) -> bool:
        """Make a file young, which delays its sweep; False when there is no such file. Raises: OSError."""
        try:
            os.utime(self.path_of(name))
        except FileNotFoundError:
            return False
        return True

    def has(self, name: str) -> bool:
        return self.path_of(name).exists()

    def is_older(self, name: str, age: float) -> bool:
        """True when the file exists and was written or touched at least `age` seconds ago."""
        try:
            return self.path_of(name).stat().st_mtime <= time.time() - age
        except OSError:
            return False

    def names(self, age: float = 0.0) -> Iterator[str]:
        """Names of the files that were written or touched at least `age` seconds ago.

        Removes old remains of interrupted writes.
        """
        latest = time.time() - age
        for room in _entries(self.directory):
            if len(room.name) != 2 or not room.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(Path(room.path)):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime > latest:
                        continue
                    if entry.name.endswith(_PARTIAL):
                        if age:
                            Path(entry.path).unlink(missing_ok=True)
                    else:
                        yield entry.name

    def remove(self, names: Iterator[str] | list[str]) -> int:
        """Remove files that nothing refers to; return their number. Removes none while a copy of the engine is made."""
        removed = 0
        with self._holding(exclusive=True) as is_free:
            for name in names if is_free else ():
                with suppress(OSError):
                    self.path_of(name).unlink()
                    removed += 1
        return removed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every file for a while: `remove` removes none, in any process. Raises: OSError."""
        with self._holding(exclusive=False):
            yield

    @contextmanager
    def _holding(self, *, exclusive: bool) -> Iterator[bool]:
        if not self.directory.is_dir():
            yield True
            return
        descriptor = forks.open_lock(self.directory / _HOLD, os.O_CREAT | os.O_RDWR)
        try:
            yield _lock(descriptor, exclusive)
        finally:
            forks.close_lock(descriptor)

    def copy_to(self, other: PayloadFiles, names: Iterator[str] | list[str]) -> list[str]:
        """Give another directory these files; return the names of missing ones.

        Files of the same file system are not copied but get a second name. Raises: OSError.
        """
        missing, rooms = [], set()
        for name in names:
            target = other.path_of(name)
            if target.exists():
                continue
            if target.parent not in rooms:
                private.directory(target.parent)
                rooms.add(target.parent)
            try:
                _copy(self.path_of(name), target)
            except FileNotFoundError:
                missing.append(name)
        for room in (*rooms, *([other.directory] if rooms else [])):
            private.flush_directory(room)
        return missing


class IncomingFile:
    """File that is being written. It gets its name when it is finished; otherwise nothing is left of it.

    A context manager: the end of the block discards the file, unless it is finished.
    """

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises: OSError; FileExistsError also for a file that is being written."""
        self._path = path
        self._partial = path.with_name(f".{path.name}{_PARTIAL}")
        descriptor = private.opened(self._partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self._file: BinaryIO | None = open(descriptor, "wb", buffering=0)  # noqa: PTH123, SIM115 -- as in `content`
        if path.exists():
            self.discard()
            raise FileExistsError(errno.EEXIST, "there is such a file", str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, content: bytes) -> None:
        """Append to the file. Raises: OSError."""
        assert self._file is not None
        _write_all(self._file.fileno(), content)

    def finish(self) -> None:
        """Flush the file to disk, and give it its name. Raises: OSError."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._partial.replace(self._path)
        self._file.close()
        self._file = None
        private.flush_directory(self._path.parent)

    def discard(self) -> None:
        """Remove the file, unless it is finished. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)


def seal(payload: bytes) -> tuple[Reference, bytes]:
    """Encrypt a payload in UTF-8. Returns its reference, with a new name and key, and the content of its file."""
    name, key = os.urandom(16).hex(), os.urandom(32)
    reference = Reference(name, key, len(payload), payload[:HEAD_BYTES].decode("utf-8", "ignore"))
    return reference, AESGCM(key).encrypt(_NONCE, payload, name.encode())


def unseal(reference: Reference, content: bytes, what: str) -> bytes:
    """Decrypt the content of a file. what: the file, for the error. Raises: LargePayloadLost."""
    try:
        return AESGCM(reference.key).decrypt(_NONCE, content, reference.name.encode())
    except InvalidTag:
        raise LargePayloadLost(f"payload {what}: the file was altered; restore it from a backup") from None


def too_large(size: int, limit: int) -> LargePayloadRefused:
    return LargePayloadRefused(f"the payload has {size} bytes; `payloads.max` of the engine allows {limit}")


def _copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        with private.replacing(target) as out, source.open("rb") as stored:
            while block := stored.read(1 << 20):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []


def _cause(error: OSError) -> str:
    return error.strerror or type(error).__name__


if sys.platform == "win32":

    def _lock(descriptor: int, exclusive: bool) -> bool:
        return True
else:
    import fcntl

    def _lock(descriptor: int, exclusive: bool) -> bool:
        if not exclusive:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
