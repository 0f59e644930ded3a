"""Activities that are coroutine functions: they run in one event loop of the process, each for a thread of its pool."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any


class _Loop:
    """Event loop in a thread of its own, which starts with the first activity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the context of the caller, and return its result. Raises: what it raises."""
        done: Future[Any] = Future()
        context = contextvars.copy_context()
        self._started().call_soon_threadsafe(self._begin, coroutine, done, context)
        return done.result()

    def _begin(self, coroutine: Coroutine[Any, Any, Any], done: Future[Any], context: contextvars.Context) -> None:
        # A loop keeps weak references to its tasks only
        task = asyncio.get_running_loop().create_task(_settle(coroutine, done), context=context)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="async-activities", daemon=True).start()
            return self._loop


async def _settle(coroutine: Coroutine[Any, Any, Any], done: Future[Any]) -> None:
    """Pass on the outcome. No exception reaches the loop, which a SystemExit would end."""
    try:
        done.set_result(await coroutine)
    except BaseException as error:
        done.set_exception(error)


_LOOP = _Loop()


def as_blocking(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Function that runs the coroutine function in the event loop, and waits for its result."""

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        return _LOOP.run(function(*given, **named))

    return run
