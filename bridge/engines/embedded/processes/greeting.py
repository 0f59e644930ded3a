"""Greeting of a worker that joins an engine of another process. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bridge import __version__
from bridge.core.system_names import PREFIX
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION

CHANNEL = 1
"""Version of the items on the channel. Workers and daemons with the same number understand each other."""

FIRST_BYTE = b"W"
"""First byte of a connection. The descriptor of the worker's slots comes with it."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """Properties of a worker.

    sessions: number and bytes of the orchestrations that it keeps in memory. most_bytes: bytes of the work that it
    holds. names: orchestrations, activities and entities that it or another worker runs; None when unknown.
    recalls: it returns activities that have not begun when it is asked to. Earlier versions did not.
    """

    sessions: tuple[int, int]
    most_bytes: int
    names: tuple[frozenset[str], frozenset[str], frozenset[str]] | None
    recalls: bool = True

    def document(self) -> dict[str, Any]:
        """Greeting as JSON types."""
        return {
            "channel": CHANNEL,
            "version": __version__,
            "sessions": list(self.sessions),
            "most_bytes": self.most_bytes,
            "names": None if self.names is None else [sorted(each) for each in self.names],
            "recalls": self.recalls,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read the JSON types of a greeting. Raises: KeyError, TypeError, ValueError."""
        number, size = document["sessions"]
        names = document["names"]
        if names is not None:
            orchestrations, activities, entities = (frozenset(map(str, each)) for each in names)
            names = (orchestrations, activities, entities)
        return cls((int(number), int(size)), int(document["most_bytes"]), names, bool(document.get("recalls")))

    @property
    def knows(self) -> Callable[[int, str], bool] | None:
        """Function that is true for a kind of work and a name that a known worker runs."""
        names = self.names
        if names is None:
            return None
        by_kind = dict(zip((ORCHESTRATION, ACTIVITY, ENTITY), names, strict=True))
        return lambda kind, name: name.startswith(PREFIX) or name in by_kind[kind]


def names_of(workflows: Workflows) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Orchestrations, activities and entities that a known worker runs."""
    external = workflows.external
    return (
        frozenset(workflows.orchestrators) | external,
        frozenset(workflows.activities) | external,
        frozenset(workflows.entities) | {name.lower() for name in external},
    )
