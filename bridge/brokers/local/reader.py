"""The one reading thread, for all work that must not block the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bridge.brokers.local.database import open_database
from bridge.brokers.local.faults import translate
from bridge.brokers.local.log import Log
from bridge.core.errors import BrokerUnavailable

T = TypeVar("T")


class Reader:
    """Runs queries and file operations on its thread, one after another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pool: ThreadPoolExecutor | None = None
        self._open: Log | None = None

    def start(self) -> None:
        """Prepare for running work."""
        self._pool = ThreadPoolExecutor(1, "local-broker-reader")

    async def stop(self) -> None:
        """Finish requested work, then close. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.submit(self._close)
            await asyncio.to_thread(pool.shutdown)

    async def query(self, work: Callable[[Log], T]) -> T:
        """Result of `work` on the log. Raises: BrokerUnavailable."""
        return await self.run(lambda: self._query(work))

    async def run(self, work: Callable[[], T]) -> T:
        """Result of `work`, such as file operations. Raises: BrokerUnavailable."""
        if self._pool is None:
            raise BrokerUnavailable(f"local broker {self._directory}: the broker is stopped")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            self._close()
            known = translate(error, self._directory)
            if known is None:
                raise
            raise known from error

    def _query(self, work: Callable[[Log], T]) -> T:
        if self._open is None:
            self._open = Log(open_database(self._directory))
            self._open.connection.execute("PRAGMA query_only = ON")
        return work(self._open)

    def _close(self) -> None:
        log, self._open = self._open, None
        if log is not None:
            log.close()
