"""Operations on the configuration of a daemon: reload, and its plan."""

from __future__ import annotations

from typing import Any

from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.core.errors import InvalidCommand


class Reload(Parameters):
    """Parameters of a reload: only the reason."""


async def _reload(scene: Scene, given: Reload) -> Any:
    return await _reloads(scene)(False, scene.actor.name)


async def _plan(scene: Scene, given: Parameters) -> Any:
    return await _reloads(scene)(True, scene.actor.name)


def _reloads(scene: Scene) -> Any:
    if scene.reload is None:
        raise InvalidCommand("only a running daemon has a configuration to reload; start it with `bridge serve`")
    return scene.reload


CONFIGURATION_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "reload", "operator", "config:reload", Reload, _reload,
        failure=lambda answer: "reload_refused" if answer["result"] == "refused" else None,
    ),
    Operation("reload.plan", "reader", "config/reload:plan", Parameters, _plan),
)  # fmt: skip
