"""Ids: those that clients may choose, and those that the engine makes."""

from __future__ import annotations

import random

from bridge.engines.embedded.rejection import invalid

MAX_ID = 1024
"""Longest instance id, in characters."""

_source = random.Random()  # noqa: S311 -- ids must differ, not be unguessable; seeded by the system at start


def new_id() -> str:
    """128 random bits in hex. Unlike uuid4 it makes no system call, at which a busy process gives up its turn."""
    return f"{_source.getrandbits(128):032x}"


def check_id(instance_id: str) -> str:
    """Raises: Rejection when no orchestration may have this id."""
    if not instance_id:
        raise invalid("The instance id is empty")
    if len(instance_id) > MAX_ID:
        raise invalid(f"The instance id has {len(instance_id)} characters; at most {MAX_ID} are allowed")
    if instance_id.startswith("@"):
        raise invalid("Instance ids that begin with @ belong to entities")
    if "\0" in instance_id:
        raise invalid("The instance id has a NUL character")
    return instance_id
