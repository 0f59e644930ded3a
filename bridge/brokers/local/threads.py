"""The writing thread and the reading thread of a log."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bridge.brokers.local.database import open_database, open_existing, translate
from bridge.brokers.local.log import Log
from bridge.core.errors import BrokerUnavailable

_log = logging.getLogger(__name__)
T = TypeVar("T")

WRITER = "local-broker-writer"
"""Name of the writing thread."""

GROUP = 1000
"""Most requests in one transaction; limits the wait of the first."""

_Request = tuple[Callable[[Log], Any], "asyncio.Future[Any]"]


class LogWriter:
    """Writing thread of the log: each piece of work runs in a transaction, pieces that wait together in one.

    A piece of work may run twice (alone, after a rollback of the shared transaction). It must therefore change only the
    log.
    """

    def __init__(self, directory: Path, appended: Callable[[], None]) -> None:
        """Create a writer. appended: called on the writer's thread after each commit that appended records."""
        self._directory = directory
        self._appended = appended
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: Log | None = None

    def start(self) -> None:
        """Start the thread for the running loop."""
        self._loop = asyncio.get_running_loop()
        # A daemon thread: a process that ends without stopping the broker has crashed, and the log survives crashes
        self._thread = threading.Thread(target=self._run, name=WRITER, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Finish submitted work, then end the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    def submit(self, work: Callable[[Log], T]) -> asyncio.Future[T]:
        """Queue `work`; the returned future has its result once the result is durable. Work runs in the order
        submitted.

        The future raises: BrokerUnavailable, PublishFailed; then nothing of this work was done.
        """
        if self._thread is None or self._loop is None:
            raise BrokerUnavailable(f"local broker {self._directory}: the broker is stopped")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    def _run(self) -> None:
        going = True
        while going:
            group: list[_Request] = []
            request = self._queue.get()
            while request is not None:
                group.append(request)
                if len(group) == GROUP:
                    break
                try:
                    request = self._queue.get_nowait()
                except queue.Empty:
                    break
            going = request is not None
            if group:
                self._resolve(group, self._together(group))
        self._close()

    def _together(self, group: list[_Request]) -> list[Any]:
        """Results or exceptions of the group, in order."""
        works = [work for work, _ in group]
        try:
            return self._transact(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
        # One piece of work may be at fault: the others must not fail with it
        results: list[Any] = []
        for work in works:
            try:
                results += self._transact([work])
            except Exception as error:
                results.append(error)
        return results

    def _transact(self, works: list[Callable[[Log], Any]]) -> list[Any]:
        try:
            log = self._open
            if log is None:
                log = self._open = Log(open_database(self._directory))
            log.begin()
            results = [work(log) for work in works]
            log.connection.execute("COMMIT")
        except BaseException as error:
            # A new connection is the safest rollback, and drops the caches of the transaction
            self._close()
            known = translate(error, self._directory) if isinstance(error, sqlite3.Error | OSError) else None
            if known is None:
                raise
            raise known from error
        if log.appended:
            self._appended()
        return results

    def _close(self) -> None:
        log, self._open = self._open, None
        if log is None:
            return
        try:
            log.close()
        except sqlite3.Error as error:
            _log.warning("local broker %s: closing failed: %s", self._directory, error)

    def _resolve(self, group: list[_Request], results: list[Any]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_settle, [future for _, future in group], results)
        except RuntimeError:
            _log.debug("the event loop closed before %d results of the local broker", len(group))


def _settle(futures: list[asyncio.Future[Any]], results: list[Any]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


class LogReader:
    """Reading thread for queries and file operations, so that none blocks the event loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pool: ThreadPoolExecutor | None = None
        self._open: Log | None = None
        self._reads_only = False

    def start(self, *, reads_only: bool = False) -> None:
        """Prepare for running work. reads_only: create no file; `has_log` is called before each query."""
        self._reads_only = reads_only
        self._pool = ThreadPoolExecutor(1, "local-broker-reader")

    async def stop(self) -> None:
        """Finish requested work, then close. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.submit(self._close)
            await asyncio.to_thread(pool.shutdown)

    async def has_log(self) -> bool:
        """False where the reader creates no file and finds none. Raises: BrokerError."""
        return not self._reads_only or await self.run(self._open_existing)

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

    def _open_existing(self) -> bool:
        if self._open is None and (connection := open_existing(self._directory)) is not None:
            self._open = Log(connection)
        return self._open is not None

    def _query(self, work: Callable[[Log], T]) -> T:
        if self._open is None:
            self._open = Log(open_database(self._directory))
            self._open.connection.execute("PRAGMA query_only = ON")
        return work(self._open)

    def _close(self) -> None:
        log, self._open = self._open, None
        if log is not None:
            log.close()
