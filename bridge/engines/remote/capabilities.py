"""Capabilities that a remote engine may lack. The embedded engine and the Durable Task Scheduler have all of them."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import StrEnum

import grpc

from bridge.core.errors import EngineError, EngineOutage
from bridge.engines.errors import details_of, status_of


class Capability(StrEnum):
    """Capability of an engine."""

    ENTITIES = "entities"
    """Entities: early messages, quarantine, pauses, limits, jobs, replays and the keys of answers are entities."""
    QUERIES = "queries"
    """Lists of instances."""
    HISTORIES = "histories"
    """Histories of instances. They show what a finished instance has received."""
    PROTOCOL = "the current protocol"
    """Protocol with work items only for workers that can run them, delayed starts, versions and tags of instances.

    An older one accepts these settings of a start and ignores them.
    """


ALL = frozenset[Capability]()
"""Lack of an engine that has all capabilities."""


async def answers(call: Awaitable[object]) -> bool:
    """True when an engine implements a call, whatever it answers. Raises: EngineOutage when it does not answer."""
    try:
        await call
    except EngineError as error:
        if is_unimplemented(error):
            return False
        if isinstance(error, EngineOutage):
            raise
    return True


def is_unimplemented(error: EngineError) -> bool:
    """True when the engine does not implement the call of this error. Servers in Go may answer that as UNKNOWN."""
    cause = error.__cause__
    code = None if cause is None else status_of(cause)
    if cause is not None and code is grpc.StatusCode.UNKNOWN:
        return "implemented" in details_of(cause)
    return bool(code is grpc.StatusCode.UNIMPLEMENTED)


def is_unknown_method(error: EngineError) -> bool:
    """True when the protocol of the engine is older than the call of this error."""
    return error.__cause__ is not None and "unknown method" in details_of(error.__cause__)
