"""Ids that the engine makes: of executions, of instances without one, of signals."""

from __future__ import annotations

import random

_source = random.Random()  # noqa: S311 -- ids must differ, not be unguessable; seeded by the system at start


def new_id() -> str:
    """128 random bits in hex. Unlike uuid4 it makes no system call, at which a busy process gives up its turn."""
    return f"{_source.getrandbits(128):032x}"
