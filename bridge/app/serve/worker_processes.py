"""Worker processes of the daemon's engines, as the configuration asks for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from bridge.app.composition import module_base, own_packages
from bridge.config.model.engines import WorkerConfig
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import WorkerProcesses, default_command
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.workflows import Workflows
from bridge.ops.logging import Level
from bridge.workflow.messages import REPEATS

MODULE = "bridge.app.worker_process"
"""Program of a worker process."""


def process_count(config: WorkerConfig) -> int:
    """Number of worker processes; 0 when the workflows run in this process."""
    if config.processes != "auto":
        return config.processes
    if sys.platform != "linux":
        return 0
    return max(0, len(os.sched_getaffinity(0)) - 1)


def build_processes(
    loaded: Loaded,
    engine: Engine,
    workflows: Workflows,
    monitor: CompatibilityMonitor,
    levels: Mapping[str, Level],
    trace_endpoint: str | None,
) -> WorkerProcesses | None:
    """Create the worker processes of an engine; None when its workflows run in this process.

    workflows: names of the work that they run. levels: levels of the log by logger; `""` is the whole log.
    trace_endpoint: receiver of spans; None where traces are off.
    """
    number = process_count(loaded.config.engines[engine.name].worker)
    if not number or not isinstance(engine, EmbeddedEngine) or not engine.is_host:
        return None
    config, log = loaded.config, loaded.config.ops.log
    settings = ProcessSettings(
        engine.name,
        tuple(config.workflows.modules),
        str(module_base(loaded).absolute()),
        tuple(config.workflows.external),
        tuple(sys.path),
        log_level=levels.get("", log.level),
        log_format=log.format,
        log_libraries=log.libraries,
        log_levels=tuple((name, level) for name, level in levels.items() if name),
        own_packages=tuple(sorted(own_packages(loaded))),
        trace_endpoint=trace_endpoint,
        trace_sample=config.ops.tracing.sample,
    )
    return engine.worker_processes(number, settings, workflows, default_command(MODULE), monitor, _count)


def _count(figures: Mapping[str, int]) -> None:
    for by, number in figures.items():
        REPEATS.add(by, number)
