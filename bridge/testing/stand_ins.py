"""Stand-ins for the orchestrations and entities that other workers run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from durabletask.entities import EntityContext
from durabletask.task import OrchestrationContext, Task

from bridge.config.model.bridge import BridgeConfig
from bridge.engines.workflows import Workflows
from bridge.routing import referenced_entities

FINISH = "bridge.test.finish"
"""Event that completes a stand-in. Its data is the output."""


def with_stand_ins(workflows: Workflows, config: BridgeConfig) -> Workflows:
    """Workflows with stand-ins for the external entities that a rule names, and for all other external names.

    The latter may be orchestrations that workflows call. For an activity, a stand-in orchestration has no effect.
    """
    entities = {name for name, _ in referenced_entities(config)} & workflows.external
    others = workflows.external - entities
    return replace(
        workflows,
        orchestrators={**{name: _orchestration(name) for name in others}, **workflows.orchestrators},
        entities={**{name.lower(): _entity(name) for name in entities}, **workflows.entities},
    )


def _orchestration(name: str) -> Callable[..., Any]:
    def stand_in(ctx: OrchestrationContext, _: Any) -> Generator[Task[Any], Any, Any]:
        return (yield ctx.wait_for_external_event(FINISH))

    stand_in.__name__ = name
    return stand_in


def _entity(name: str) -> Callable[..., Any]:
    def stand_in(ctx: EntityContext, given: Any) -> None:
        ctx.set_state({"operation": ctx.operation, "input": given})

    stand_in.__name__ = name
    return stand_in
