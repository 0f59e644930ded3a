"""Thread for queries that may take long, which keeps them out of the writer's thread."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bridge.sqlite_engine.model.rejection import Rejection, unavailable
from bridge.sqlite_engine.model.reply import Reply
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.query import Queries
from bridge.sqlite_engine.storage.schema import connect

logger = logging.getLogger(__name__)


class Reader:
    """Runner of queries, one after the other, on a read-only connection."""

    def __init__(self, path: Path, name: str, payloads: Payloads) -> None:
        self._connection = connect(path)
        self._connection.execute("PRAGMA query_only=ON")
        self._connection.execute("PRAGMA cache_size=-4096")
        self.queries = Queries(self._connection, payloads)
        self._queue: SimpleQueue[tuple[Callable[[Any], Any], Any, Reply] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the connection. Idempotent."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._connection.close()

    def submit(self, question: Callable[[Any], Any], request: Any, reply: Reply) -> None:
        self._queue.put((question, request, reply))

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            question, request, reply = job
            try:
                outcome = question(request)
            except Rejection as rejection:
                outcome = rejection.with_traceback(None)
            except sqlite3.Error as error:
                outcome = unavailable(f"The engine's file cannot be read: {error}")
            except Exception as error:
                logger.exception("A question to the engine failed")
                outcome = error
            reply.settle(outcome)
