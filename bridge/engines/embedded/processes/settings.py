"""Settings of a worker process, as the daemon sends them. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from bridge import __version__
from bridge.engines.payloads.large_payloads import FileSettings
from bridge.sqlite_engine.defaults import WORKER_THREADS
from bridge.system import log_defaults

SLOT = 64
"""Bytes of the slot of a thread, for the token that it runs."""

HEADER = 64
"""Bytes before the first slot."""

_STACK = 8 * 1024 * 1024
"""Largest stack of a thread that the memory limit allows for, in bytes."""

_OTHER_THREADS = 8
"""Threads of a process beside those for activities."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Settings of a worker process.

    base: directory in which modules are looked up first. path: all directories with modules; empty for those of
    a new interpreter.
    stuck_after, threads, versions: as in the configuration of workers. sessions: False when every turn replays.
    memory_limit: bytes of data without the stacks of threads; None for no limit.
    payloads: store of large payloads; None for none.
    trace_endpoint, trace_sample: receiver of the spans of instrumented user code, and the sampled part; None for none.
    """

    engine: str
    modules: tuple[str, ...]
    base: str
    external: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    threads: int = WORKER_THREADS
    stuck_after: float | None = None
    sessions: bool = True
    memory_limit: int | None = None
    log_level: str = log_defaults.LEVEL
    log_format: str = log_defaults.FORMAT
    log_libraries: str = log_defaults.LIBRARIES
    log_levels: tuple[tuple[str, str], ...] = ()
    own_packages: tuple[str, ...] = ()
    trace_endpoint: str | None = None
    trace_sample: float | None = None
    payloads: FileSettings | None = None

    def document(self) -> dict[str, Any]:
        """Settings as JSON types."""
        return {**asdict(self), "version": __version__}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Settings from JSON types. Raises: ValueError when the daemon has another version than this process."""
        version = document.get("version")
        if version != __version__:
            raise ValueError(f"the daemon has version {version}, but {__version__} is installed; restart the daemon")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in document.items()
            if name != "version"
        }
        payloads = values["payloads"]
        values["payloads"] = None if payloads is None else FileSettings(**payloads)
        values["log_levels"] = tuple((name, level) for name, level in values["log_levels"])
        return cls(**values)

    def limit_memory(self) -> None:
        """Limit the memory of this process. Without effect where the system has no such limit."""
        if self.memory_limit is None or sys.platform == "win32":
            return
        import resource

        # The stacks that threads reserve count as data, whether they are used or not
        stack = max(0, resource.getrlimit(resource.RLIMIT_STACK)[0]) or _STACK
        wanted = self.memory_limit + min(stack, _STACK) * (self.threads + _OTHER_THREADS)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
