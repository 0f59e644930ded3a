"""Program of a worker process: `python -m bridge.app.worker_process CHANNEL SLOTS`. The daemon starts it.

It imports the workflows and runs them. It has neither brokers nor an engine, and reads no configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from durabletask import task

from bridge import __version__
from bridge.core.system_names import EVALUATE, SAGA
from bridge.engines.embedded.processes.child import run
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.workflows import Workflows, load
from bridge.ops import logging, tracing
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter, message_aware
from bridge.workflow.messages import REPEATS


def _declared_saga(ctx: task.OrchestrationContext, start: dict[str, Any]) -> Any:
    """Run a saga of the configuration. Its code is imported with the first one: it is a third of all imports."""
    from bridge.workflow.declared import declared_saga

    return declared_saga(ctx, start)


def _evaluate(ctx: task.ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a block of expressions of such a saga."""
    from bridge.workflow.declared import evaluate

    return evaluate(ctx, request)


_declared_saga.__name__, _evaluate.__name__ = SAGA, EVALUATE


def user_workflows(workflows: Workflows) -> Workflows:
    """Workflows of a configuration as workers run them: aware of their messages, with the declared sagas."""
    orchestrators = {**workflows.orchestrators, SAGA: _declared_saga}
    return replace(
        workflows,
        orchestrators={name: message_aware(each) for name, each in orchestrators.items()},
        activities={**workflows.activities, EVALUATE: _evaluate},
    )


def _prepare(settings: ProcessSettings) -> Callable[[], object]:
    """Set up logs and traces. Returns the function that sends the last spans."""
    logging.configure(
        cast(logging.Level, settings.log_level),
        cast(logging.LogFormat, settings.log_format),
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
