"""Ids of sagas."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

from durabletask import task

_COUNT = "bridge.sagas"
"""Attribute of a context."""


def new_id(ctx: task.OrchestrationContext, name: str) -> str:
    """32 characters that no other saga has, the same in every replay. `ctx.new_uuid()` takes ten times as long."""
    # How many sagas the orchestration has made so far: every replay has a context of its own, which counts anew.
    number = getattr(ctx, _COUNT, 0) + 1
    setattr(ctx, _COUNT, number)
    return _digest(ctx.instance_id, ctx.current_utc_datetime, number, name)


@lru_cache(maxsize=8192)
def _digest(instance_id: str, now: datetime, number: int, name: str) -> str:
    seed = f"{instance_id}\n{now.isoformat()}\n{number}\n{name}"
    return blake2b(seed.encode(), digest_size=16).hexdigest()
