"""Cache of the rows of dead letters on the disk of this machine, so that a log is read once.

Each partition has a directory with one file per block. Files appear under their names when they are complete. A damaged
or missing file only costs another read of the log. Files hold no payload, key or message id.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bridge.dead_letters.rows import Rows
from bridge.system import private

_log = logging.getLogger(__name__)

DIRECTORY = "dead-letters"
_GENERATION = "generation"
_BLOCK = ".block"
_GENERATION_BYTES = 16


@dataclass(frozen=True, slots=True)
class CachedPartition:
    """Rows of a partition, as cached.

    generation: name of this reading of the log; files of another one are void.
    blocks: blocks that follow each other without a hole, by first offset.
    """

    generation: str
    blocks: dict[int, Rows]


class RowCache:
    """Cache below a directory, shared by all processes of this user.

    max_bytes: bytes of all files. The partitions that were not used for the longest time leave first.
    """

    def __init__(self, directory: Path, version: str, max_bytes: int) -> None:
        """Create the cache. version: of the program that computes the rows; files of another one are void."""
        self._directory = directory
        self._version = version
        self._max_bytes = max_bytes

    def load(self, cluster: str, topic: str, partition: int, begin: int, end: int) -> CachedPartition:
        """Load the rows of a partition that has the offsets from `begin` up to `end`."""
        place = self._place(cluster, topic, partition)
        generation = self._read(place / _GENERATION).decode("ascii", "replace")
        blocks: dict[int, Rows] = {}
        if len(generation) == 2 * _GENERATION_BYTES:
            with suppress(OSError):
                os.utime(place)
            expected = begin
            for first in sorted(self._firsts(place, generation)):
                rows = self.block(cluster, topic, partition, generation, first)
                if rows is None or rows.begin > expected or rows.end > end:
                    break
                if rows.end > begin:
                    blocks[first] = rows.since(begin)
                    expected = rows.end
        return CachedPartition(generation, blocks)

    def block(self, cluster: str, topic: str, partition: int, generation: str, first: int) -> Rows | None:
        """Rows of one block; None if they are not cached, or damaged."""
        place = self._place(cluster, topic, partition)
        rows = Rows.from_bytes(self._read(place / f"{first:020d}.{generation}{_BLOCK}"))
        return None if rows is None or rows.first != first else rows

    def save(self, cluster: str, topic: str, partition: int, generation: str, blocks: Iterable[Rows]) -> str:
        """Store blocks; return their generation.

        generation: of the loaded partition; empty when the log is another one, or was not cached.
        """
        place = self._place(cluster, topic, partition)
        try:
            private.directory(place)
            if not generation:
                for old in place.iterdir():
                    old.unlink(missing_ok=True)
                generation = secrets.token_hex(_GENERATION_BYTES)
                with private.replacing(place / _GENERATION) as out:
                    out.write(generation.encode())
            for rows in blocks:
                with private.replacing(place / f"{rows.first:020d}.{generation}{_BLOCK}") as out:
                    out.write(rows.to_bytes())
        except OSError as error:
            _log.debug("dead letters are not cached in %s: %s", place, error.strerror)
        return generation

    def tidy(self) -> int:
        """Remove the partitions that were not used for the longest time; return the bytes that stay."""
        found: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for place in self._directory.iterdir():
                with suppress(OSError):
                    found.append((place.stat().st_mtime, sum(each.stat().st_size for each in place.iterdir()), place))
        total = sum(size for _, size, _ in found)
        for _, size, place in sorted(found):
            if total <= self._max_bytes:
                break
            shutil.rmtree(place, ignore_errors=True)
            total -= size
        return total

    def _place(self, cluster: str, topic: str, partition: int) -> Path:
        parts = "\n".join((self._version, cluster, topic, str(partition)))
        return self._directory / hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def _firsts(self, place: Path, generation: str) -> Sequence[int]:
        ending = f".{generation}{_BLOCK}"
        try:
            names = [each.name.removesuffix(ending) for each in place.iterdir() if each.name.endswith(ending)]
        except OSError:
            return ()
        return [int(name) for name in names if name.isdecimal()]

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            descriptor = private.opened(path, os.O_RDONLY)
        except OSError:
            return b""
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor has no path
            return stream.read()
