"""Ends: of asyncio tasks that run until they are cancelled, and of parts that are closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger("bridge.daemon")

AGAIN_SECONDS = 1.0
"""Seconds until a task that goes on is cancelled again. Longer than the clean-up of a task takes."""


async def cancelled(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and return when all of them have ended. Their errors are ignored; None is no task.

    A library can lose a cancellation: azure-servicebus does while it reads a frame, and `asyncio.wait_for` of
    Python 3.11 when its result comes in the same turn of the event loop. A task that goes on is cancelled again.
    """
    given = [task for task in tasks if task is not None]
    going = set(given)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=AGAIN_SECONDS)
    for task in given:
        if not task.cancelled():
            task.exception()  # asyncio reports errors that nobody reads


async def closed(*closing: Coroutine[Any, Any, Any]) -> list[Any]:
    """Close parts at once, and return their results or exceptions, in order. Exceptions are logged."""
    results = await asyncio.gather(*closing, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            logger.error("a component did not close cleanly", exc_info=result, extra={"action": "stop"})
    return results
