"""Configurations and messages for tests of routing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bridge.config.model.bridge import BridgeConfig
from bridge.core.errors import ConfigError, Problem
from bridge.core.message import Envelope, Position
from bridge.routing import Router


def locate(path: tuple[str | int, ...], what: str) -> Problem:
    return Problem("bridge.yaml", 1, 1, ".".join(map(str, path)), what)


def route(name: str = "a", **keys: Any) -> dict[str, Any]:
    """Create a route from `orders` that schedules, unless another command is given."""
    commands = {"schedule", "raise_event", "start_or_raise", "cancel", "terminate", "suspend", "resume"}
    keys = {key.rstrip("_"): value for key, value in keys.items()}
    if not keys.keys() & (commands | {"signal_entity", "ignore"}):
        keys["schedule"] = {"orchestration": "saga", "instance_id": "order-{{ payload.id }}"}
    return {"name": name, "from": "orders", **keys}


def config(*routes: Mapping[str, Any], source: Mapping[str, Any] | None = None, **rest: Any) -> BridgeConfig:
    return BridgeConfig.model_validate(
        {
            "engines": {"default": {"type": "embedded"}, "eu": {"type": "scheduler"}},
            "brokers": {"local": {"type": "local"}},
            "sources": {
                "orders": {"broker": "local", "topics": ["orders"], "no_match": "dead_letter", **(source or {})}
            },
            "routes": list(routes),
            **rest,
        }
    )


def router(
    *routes: Mapping[str, Any],
    functions: Callable[[str], Callable[[Envelope], Any]] | None = None,
    validators: Mapping[str, Callable[[Any], None]] | None = None,
    **rest: Any,
) -> Router:
    return Router.compile("orders", config(*routes, **rest), locate, functions, validators)


def problems(*routes: Mapping[str, Any], **rest: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as raised:
        router(*routes, **rest)
    return list(raised.value.problems)


def envelope(data: Any = None, **attributes: Any) -> Envelope:
    given: dict[str, Any] = {
        "message_id": "/shop#1",
        "id": "1",
        "source": "/shop",
        "type": "order.created",
        "data": {"id": "o-1"} if data is None else data,
        "position": Position("local", "orders", 3, 42),
    }
    return Envelope(**(given | attributes))
