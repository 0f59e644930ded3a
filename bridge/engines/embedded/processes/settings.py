"""Settings of a worker process, as the daemon sends them. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

SLOT = 64
"""Bytes of the slot of a thread, for the token that it runs."""

HEADER = 64
"""Bytes before the first slot."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Settings of a worker process.

    base: directory in which modules are looked up first.
    stuck_after, threads: as in the configuration of workers. sessions: False when every turn replays.
    memory_limit: bytes of data; None for no limit.
    """

    engine: str
    modules: tuple[str, ...]
    base: str
    external: tuple[str, ...] = ()
    threads: int = 16
    stuck_after: float | None = None
    sessions: bool = True
    memory_limit: int | None = None
    log_level: str = "info"
    log_format: str = "auto"
    log_libraries: str = "warning"
    log_levels: tuple[tuple[str, str], ...] = ()
    own_packages: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Settings as JSON types."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Settings from JSON types."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        values["log_levels"] = tuple((name, level) for name, level in values["log_levels"])
        return cls(**values)

    def limit_memory(self) -> None:
        """Limit the memory of this process. Without effect where the system has no such limit."""
        if self.memory_limit is None or sys.platform == "win32":
            return
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = self.memory_limit if hard == resource.RLIM_INFINITY else min(self.memory_limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
