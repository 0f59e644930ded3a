"""Tasks of a daemon that end only when they are cancelled: any other end is a bug, and ends the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bridge.core.errors import BridgeError


class EndlessTasks:
    """Watch over tasks whose set changes. running: the present ones."""

    def __init__(self, running: Callable[[], set[asyncio.Task[None]]]) -> None:
        self._running = running
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Watch the tasks that there are now."""
        self._changed.set()

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set. Raises: the exception that ended a task; BridgeError for one without."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    done, _ = await asyncio.wait(
                        [stopped, changed, *self._running()], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changed.cancel()
                if stopped in done:
                    return
                self._changed.clear()
                for task in done & self._running():
                    if not task.cancelled():
                        task.result()
                    raise BridgeError(f"{task.get_name()} ended unexpectedly")
        finally:
            stopped.cancel()
