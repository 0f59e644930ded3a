"""State of the bridge's own entities, read while operations wait to be processed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from durabletask.entities import EntityInstanceId

from bridge.core.errors import EngineUnavailable
from bridge.engines.client import EngineClient

_LOOK_SECONDS = 0.002, 0.05
"""Seconds between two looks at an entity with operations: the first, and the longest."""


async def latest(client: EngineClient, entity: EntityInstanceId, what: str) -> tuple[Any, bool]:
    """Read the JSON state of an entity, None without one, with True when operations wait. Raises: EngineError."""
    found = await client.find_entity(entity, what=what)
    if found is None:
        return None, False
    return json.loads(found.get_state() or "null"), bool(found.backlog_queue_size)


async def processed(client: EngineClient, entity: EntityInstanceId, what: str, within: float, otherwise: str) -> Any:
    """Read the JSON state of an entity after all operations sent so far.

    within: seconds for workers to process the operations.
    otherwise: text of the error when none has processed them in time.
    Raises: EngineError; EngineUnavailable.
    """
    end = time.monotonic() + within
    pause, longest = _LOOK_SECONDS
    while True:
        state, pending = await latest(client, entity, what)
        if not pending:
            return state
        if time.monotonic() > end:
            raise EngineUnavailable(otherwise)
        await asyncio.sleep(pause)
        pause = min(longest, 1.5 * pause)
