"""Program of a worker process: `python -m bridge.app.worker_process CHANNEL SLOTS`. The daemon starts it.

It imports the workflows and runs them. It has neither brokers nor an engine, and reads no configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from bridge import __version__
from bridge.engines.embedded.processes.child import run
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.workflows import Workflows, load
from bridge.ops import logging, tracing
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter, message_aware
from bridge.workflow.declared import EVALUATE_ACTIVITY, SAGA_ORCHESTRATION, declared_saga, evaluate
from bridge.workflow.messages import REPEATS


def user_workflows(workflows: Workflows) -> Workflows:
    """Workflows of a configuration as workers run them: aware of their messages, with the declared sagas."""
    orchestrators = {**workflows.orchestrators, SAGA_ORCHESTRATION: declared_saga}
    return replace(
        workflows,
        orchestrators={name: message_aware(each) for name, each in orchestrators.items()},
        activities={**workflows.activities, EVALUATE_ACTIVITY: evaluate},
    )


def _prepare(settings: ProcessSettings) -> Callable[[], object]:
    """Set up logs and traces. Returns the function that sends the last spans."""
    logging.configure(
        cast(logging.Level, settings.log_level),
        cast(logging.Format, settings.log_format),
        libraries=cast(logging.Level, settings.log_libraries),
        own=settings.own_packages,
        levels=cast(Mapping[str, logging.Level], dict(settings.log_levels)),
    )
    if settings.trace_endpoint is None:
        return lambda: None
    tracer = tracing.build(settings.trace_endpoint, settings.trace_sample, __version__, max_buffered=0, max_age=0.0)
    return tracer.install_provider()


def _load(settings: ProcessSettings) -> Workflows:
    if settings.path:
        sys.path[:] = settings.path
    found = user_workflows(load(settings.modules, Path(settings.base), external=settings.external))
    tune_memory()
    return found


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), _prepare, _load, DataConverter, REPEATS.counts)
