"""Ids of sagas."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

from durabletask import task

_COUNT = "bridge.sagas"
"""Attribute of a context that counts its sagas."""


def new_id(ctx: task.OrchestrationContext, name: str) -> str:
    """Create a unique id of 32 characters that is the same in every replay.

    `ctx.new_uuid()` takes ten times as long.
    """
    # Number of sagas the orchestration has created so far. Every replay has a new context, which counts from 0
    number = getattr(ctx, _COUNT, 0) + 1
    setattr(ctx, _COUNT, number)
    return _digest(ctx.instance_id, ctx.current_utc_datetime, number, name)


@lru_cache(maxsize=8192)
def _digest(instance_id: str, now: datetime, number: int, name: str) -> str:
    seed = f"{instance_id}\n{now.isoformat()}\n{number}\n{name}"
    return blake2b(seed.encode(), digest_size=16).hexdigest()
