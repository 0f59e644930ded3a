"""Task hubs in a directory, one file each, selected by the `taskhub` header that the scheduler's clients send."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

from bridge.core.errors import EngineError
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import exhausted, invalid_argument, unavailable
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.service import AioSidecarService

DEFAULT = "default"
MAX_HUBS = 100
"""Largest number of open hubs. Each has a file, threads and caches, and a client creates one by naming it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class TaskHubs:
    """Task hubs of a directory. Existing hubs are opened at the start, others on first use."""

    def __init__(self, directory: Path, options: DatabaseOptions | None = None, max_hubs: int = MAX_HUBS) -> None:
        """Create no hub beyond `max_hubs`. Existing hubs are opened at the start regardless of the limit."""
        self._max_hubs = max_hubs
        self._directory = directory
        self._options = dataclasses.replace(options or DatabaseOptions(), disposable=True)
        self._hubs: dict[str, Database] = {}
        self._lock = threading.Lock()
        self._open = self._running = False

    def start(self) -> None:
        """Open every hub in the directory. Raises: EngineUnavailable, EngineMisconfigured."""
        self._open = True
        try:
            for path in sorted(self._directory.glob("*.db")):
                self._start(path.stem)
            self._start(DEFAULT)
            self._running = True
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close all hubs. Idempotent."""
        with self._lock:
            self._open = self._running = False
            hubs = list(self._hubs.values())
            self._hubs.clear()
        for hub in hubs:
            hub.stop()

    def get(self, name: str) -> Database:
        """Hub of this name, created when it is new. Raises: Rejection."""
        hub = self._hubs.get(name)
        if hub is not None:
            return hub
        if not _NAME.fullmatch(name):
            raise invalid_argument("The task hub's name must be 1 to 64 letters, digits, hyphens and underscores")
        try:
            return self._start(name)
        except EngineError as error:
            raise unavailable(str(error)) from error

    def opened(self) -> list[Database]:
        """Hubs that are open."""
        return list(self._hubs.values())

    def _start(self, name: str) -> Database:
        with self._lock:
            if not self._open:
                raise unavailable("The engine is stopping")
            hub = self._hubs.get(name)
            if hub is None:
                if name != DEFAULT and len(self._hubs) >= self._max_hubs and self._running:
                    raise exhausted(
                        f"There are {len(self._hubs)} task hubs, and no more than {self._max_hubs} are made; remove "
                        "files of hubs that nobody needs and restart the engine, or raise the limit"
                    )
                hub = Database(self._directory / f"{name}.db", self._options)
                hub.start()
                self._hubs[name] = hub
            return hub


class HubsService(AioSidecarService):
    """Sidecar protocol over all hubs."""

    def __init__(self, hubs: TaskHubs) -> None:
        self._hubs = hubs

    def database(self, context: Any) -> Database:
        for name, value in context.invocation_metadata() or ():
            if name == "taskhub":
                return self._hubs.get(value)
        return self._hubs.get(DEFAULT)

    def databases(self) -> list[Database]:
        return self._hubs.opened()
