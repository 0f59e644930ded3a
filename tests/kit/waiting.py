"""One time limit and one poll for all tests."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

TIMEOUT = 60
"""Seconds until a test gives up on an event. Events take milliseconds; the limit leaves room for a loaded machine."""

TIMEOUT_OPTION = f"{TIMEOUT:g}s"
"""The same, as an argument of `--timeout`."""

POLL = 0.005
"""Least seconds between two checks of a condition."""
SHARE = 0.05
"""Part of the time waited so far that is the pause before the next check: a long wait costs few checks."""
MOST = 0.1
"""Most seconds between two checks."""


async def eventually(
    condition: Callable[[], Awaitable[Any] | Any],
    what: str | Callable[[], str] = "",
    *,
    within: float = TIMEOUT,
    poll: float | None = None,
) -> Any:
    """Poll a condition until it is true, less often the longer it takes. Returns its value.

    condition: a function or a coroutine function. what: description for the failure, or a function that makes it then.
    poll: fixed seconds between two checks, for a state that passes or a check that is costly.
    Raises: AssertionError when the time is over.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(within):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(_pause(began, poll))
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {_text(what) or _source(condition)}") from None


def eventually_blocking(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "",
    *,
    within: float = TIMEOUT,
    poll: float | None = None,
) -> Any:
    """Poll a condition like `eventually`, in a test without an event loop."""
    began = time.monotonic()
    while not (value := condition()):
        if time.monotonic() > began + within:
            raise AssertionError(f"not within {within:g} s: {_text(what) or _source(condition)}")
        time.sleep(_pause(began, poll))
    return value


def _pause(began: float, poll: float | None) -> float:
    return max(POLL, min((time.monotonic() - began) * SHARE, MOST)) if poll is None else poll


def _text(what: str | Callable[[], str]) -> str:
    return what() if callable(what) else what


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # a partial, a built-in
        return repr(condition)
