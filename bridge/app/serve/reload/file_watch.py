"""Watch over the configuration files of a process, which reloads them after a change.

It reads the attributes of a few files every interval. Notifications of the operating system would save nothing there,
and they miss changes on network file systems and behind the symbolic links that Kubernetes exchanges (`..data`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from bridge.app.candidate import CANDIDATE
from bridge.config.source import SUFFIXES, Loaded

log = structlog.get_logger("bridge.reload")

Signature = Sequence[tuple[str, int, int, int]]
"""Path, inode, time of change and size of each file; zeros for a file that does not exist."""


def signature(loaded: Loaded, paths: Sequence[Path]) -> Signature:
    """Attributes of all files of a configuration: its own, schemas, the candidate, and further files in directories.

    paths: files and directories of the configuration and its overlays. Links are followed.
    """
    return tuple(sorted({_attributes(path) for path in (*_written(paths), *_read(loaded))}))


def _attributes(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_mtime_ns, found.st_size


def _written(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        if path.is_dir():
            try:
                yield from [file for file in path.iterdir() if file.suffix in SUFFIXES]
            except OSError:
                continue


def _read(loaded: Loaded) -> Iterator[Path]:
    yield from map(Path, loaded.document.directories)
    if (name := loaded.config.rules.candidate) is not None:
        yield from _written([loaded.resolve(CANDIDATE, name)])
    yield from schema_paths(loaded)


def schema_paths(loaded: Loaded) -> Iterator[Path]:
    """JSON Schema files of a configuration."""
    config = loaded.config
    for name, source in config.sources.items():
        if source.schema_file is not None:
            yield loaded.resolve(("sources", name, "schema"), source.schema_file)
    for index, route in enumerate(config.routes):
        if route.schema_file is not None:
            yield loaded.resolve(("routes", index, "schema"), route.schema_file)


class FileWatch:
    """Watch that reloads a configuration after a change of its files, once they have not changed for one interval."""

    def __init__(
        self,
        current: Callable[[], Loaded],
        paths: Sequence[Path],
        interval: float,
        reload: Callable[[str], Awaitable[Any]],
        known: Signature,
    ) -> None:
        """Create a watch.

        current: configuration in use.
        paths: see `signature`.
        interval: seconds between two looks.
        reload: reloads, for somebody of the given name.
        known: signature of the files as they were read.
        """
        self._current = current
        self._paths = paths
        self._interval = interval
        self._reload = reload
        self._known = known

    async def run(self) -> None:
        """Look at the files again and again. Never returns."""
        while True:
            await asyncio.sleep(self._interval)
            # The file system may be slow, and must not stop the messages
            found = await self._read_files()
            if found == self._known:
                continue
            await asyncio.sleep(self._interval)
            if await self._read_files() != found:
                continue  # somebody is still writing
            self._known = found  # a refused configuration is not tried again until it changes
            try:
                await self._reload("file watch")
            except Exception as error:
                log.error("the reload failed unexpectedly", action="bug", exc_info=error)
            else:
                # The new configuration may read other files. A change during the reload is found by the next look
                earlier = {each[0]: each for each in found}
                self._known = tuple(earlier.get(each[0], each) for each in await self._read_files())

    async def _read_files(self) -> Signature:
        return await asyncio.to_thread(signature, self._current(), self._paths)
