"""Removal of files of large payloads to which nothing refers: a process died between the file and the commit.

A file is left alone while it is young: the request that refers to it may be on its way. The engine makes the files of
each request young when the request arrives, and refuses a request whose file is gone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import islice

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.working_set import OperationKind

logger = logging.getLogger(__name__)

STEP = 200
"""Largest number of files that one transaction looks up."""


class PayloadSweep:
    """Periodic removal, in transactions of a few files.

    submit: of the writer. age: seconds after which a file without a reference is removed. period: seconds between two
    sweeps.
    """

    def __init__(self, hub: TaskHub, submit: Callable[..., None], age: float, period: float) -> None:
        self._hub = hub
        self._submit = submit
        self._age = age
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-payloads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            found = self._hub.files.names(self._age)
            while names := list(islice(found, STEP)):
                self._submit(self._look_up, names, kind=OperationKind.RETENTION)
                if self._stop.is_set():
                    return
            if self._stop.wait(self._period):
                return

    def _look_up(self, names: list[str]) -> None:
        found = self._hub.tx.select_unreferenced(names)
        if found:
            self._hub.after.append(lambda: self._remove(found))

    def _remove(self, names: list[str]) -> None:
        files = self._hub.files
        # Again after the commit: operations of the same transaction may have used a file
        left = [name for name in self._hub.tx.select_unreferenced(names) if files.is_older(name, self._age)]
        if left and (removed := files.remove(left)):
            logger.info("Removed %d files of large payloads to which nothing refers", removed)
