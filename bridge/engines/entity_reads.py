"""Reads of an entity: its latest state, and its state with the effect of an operation.

Engines count the operations of an entity that wait. The count does not show when an operation was processed: some
engines leave out the operations that a worker is processing. An operation is therefore verified by its effect.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from durabletask.entities import EntityInstanceId

from bridge.core.errors import EngineUnavailable
from bridge.engines.client import EngineClient

T = TypeVar("T")

WITHIN = 30.0
"""Seconds for a worker to process an operation: the engine detects a frozen worker and gives its work to another."""

_POLL_SECONDS = 0.002, 0.05
"""Seconds between two reads: the first, and the longest."""


async def latest(client: EngineClient, entity: EntityInstanceId, what: str) -> tuple[Any, bool]:
    """Read the JSON state of an entity, None without one, with True when operations wait. Raises: EngineError.

    what: subject of an error.
    """
    found = await client.find_entity(entity, what=what)
    if found is None:
        return None, False
    return json.loads(found.get_state() or "null"), bool(found.backlog_queue_size)


async def read_effect(
    client: EngineClient,
    entity: EntityInstanceId,
    what: str,
    late: str,
    find: Callable[[Any], T | None],
    within: float | None = None,
) -> T:
    """Read an entity until its state has the effect of an operation that was sent.

    find: gets the JSON state, None without one. Returns the result of the read; None while the effect is missing.
    late: text of the error when no worker has processed the operation in time.
    within: seconds for a worker to process the operation; None for WITHIN.
    Raises: EngineError; EngineUnavailable.
    """
    end = time.monotonic() + (WITHIN if within is None else within)
    pause, longest = _POLL_SECONDS
    while True:
        state, _ = await latest(client, entity, what)
        result = find(state)
        if result is not None:
            return result
        if time.monotonic() > end:
            raise EngineUnavailable(late)
        await asyncio.sleep(pause)
        pause = min(longest, 1.5 * pause)


async def change(
    client: EngineClient,
    entity: EntityInstanceId,
    operation: str,
    value: Any,
    what: str,
    late: str,
    is_stored: Callable[[Any], bool],
) -> None:
    """Send an operation of a person; return when the state has its effect, or another change that came meanwhile.

    is_stored: True of a JSON state with the effect.
    Raises: as `read_effect`.
    """
    before, _ = await latest(client, entity, what)
    await client.signal_entity(entity, operation, value, what=what)
    await read_effect(client, entity, what, late, lambda state: is_stored(state) or state != before or None)
