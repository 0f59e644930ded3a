"""Operations on the configuration of a daemon: reload, and its plan."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.core.errors import InvalidCommand
from bridge.engines.reload_requests import ReloadRequests

_REASON = 500
"""Most characters of the reason that is kept on the engine."""


class Reload(Parameters):
    """Parameters of a reload: only the reason."""


async def _reload(scene: Scene, given: Reload) -> Any:
    return await _reloads(scene)(False, scene.actor.name)


async def _plan(scene: Scene, given: Parameters) -> Any:
    return await _reloads(scene)(True, scene.actor.name)


async def _all(scene: Scene, given: Reload) -> Any:
    value = {"id": uuid4().hex, "at": time.time(), "by": scene.actor.name, "reason": (given.reason or "")[:_REASON]}
    return await ReloadRequests(await scene.engine()).request(value)


async def _show(scene: Scene, given: Parameters) -> Any:
    return await ReloadRequests(await scene.engine()).load()


def _reloads(scene: Scene) -> Any:
    if scene.reload is None:
        raise InvalidCommand("only a running daemon has a configuration to reload; start it with `bridge serve`")
    return scene.reload


CONFIGURATION_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "reload", "operator", "config:reload", Reload, _reload, dict[str, Any],
        failure=lambda answer: "reload_refused" if answer["result"] == "refused" else None,
    ),
    Operation("reload.all", "operator", "config:reload-all", Reload, _all, dict[str, Any]),
    Operation("reload.show", "reader", "config/reload", Parameters, _show, dict[str, Any]),
    Operation("reload.plan", "reader", "config/reload:plan", Parameters, _plan, dict[str, Any]),
)  # fmt: skip
