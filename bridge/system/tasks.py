"""End of asyncio tasks that run until they are cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

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
