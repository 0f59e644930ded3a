"""Calls that block, in threads that do not keep the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Run a call in a thread of its own and return its result. A call that hangs does not keep the process at its end.

    `asyncio.to_thread` would: the event loop waits for its threads.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # None only where the call returns it

    def run() -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as failure:
            error = failure
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, value, error)

    threading.Thread(target=run, name="check", daemon=True).start()
    return await result
