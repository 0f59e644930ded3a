"""Instance and execution ids: checks of those that clients choose, and creation of new ones."""

from __future__ import annotations

import random

from bridge.sqlite_engine.model.bounds import MAX_NAME, BeyondBound, Limits
from bridge.sqlite_engine.model.rejection import invalid_argument

_source = random.Random()  # noqa: S311 -- ids must differ, not be unguessable; seeded by the system at start


def new_id() -> str:
    """Create an id of 128 random bits in hex.

    Unlike uuid4 it makes no system call, which would let a busy process lose its time slice.
    """
    return f"{_source.getrandbits(128):032x}"


def check_id(instance_id: str, limits: Limits) -> str:
    """Check the id of a new orchestration. Raises: Rejection."""
    if not instance_id:
        raise invalid_argument("The instance id is empty")
    try:
        limits.check_id("an instance id", instance_id)
    except BeyondBound as error:
        raise invalid_argument(f"The call {error}") from error
    if instance_id.startswith("@"):
        raise invalid_argument("Instance ids that begin with @ belong to entities")
    if "\0" in instance_id:
        raise invalid_argument("The instance id has a NUL character")
    return instance_id


def check_execution(execution: str) -> None:
    """Check an execution id. An empty one stands for a new id. Raises: Rejection."""
    if len(execution) > MAX_NAME:
        raise invalid_argument(
            f"The call has an execution id of {len(execution)} characters; at most {MAX_NAME} are allowed"
        )
    if any(letter < " " for letter in execution):
        raise invalid_argument("The execution id has a control character")
