"""Cost of routing for each message, without decoding."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from cel_expr_python import cel

from bridge.config.model.bridge import BridgeConfig
from bridge.core.errors import Problem
from bridge.core.message import Envelope, Position
from bridge.routing import Router

ROUNDS = 30
MESSAGES = 500
CONDITION = "payload.total > 0.0"

PAYLOAD: dict[str, Any] = {
    "id": "o-1001",
    "total": 129.5,
    "region": "eu-1",
    "customer": {"id": "c-77", "country": "NL", "name": "Willemijn van der Berg", "note": "x" * 150},
    "lines": [{"sku": f"sku-{line}", "quantity": line + 1, "price": 9.95} for line in range(10)],
    "note": "y" * 200,
}


def run() -> dict[str, float]:
    """Run the benchmark.

    `cost_ratio_10000_to_10`: cost with 10,000 rules over the cost with 10.
    `route_micros`: microseconds per message with one CEL condition on a 1 KB payload.
    `cel_micros`: microseconds of the plain evaluation of that condition with the whole payload.
    """
    assert 900 <= len(json.dumps(PAYLOAD)) <= 1300
    messages = [
        _envelope(f"type-{number % 5}", f"eu-{number % 2}", PAYLOAD | {"id": f"o-{number}"}) for number in range(20)
    ]
    few, many = _router(10), _router(10_000)
    condition = _router(1)
    conditioned = [_envelope("type-0", "eu-0", PAYLOAD | {"id": f"o-{number}"}) for number in range(20)]
    figures = _interleaved(
        {
            "few": lambda: [few.route(message) for message in messages],
            "many": lambda: [many.route(message) for message in messages],
            "route": lambda: [condition.route(message) for message in conditioned],
            "cel": _bare(conditioned),
        }
    )
    return {
        "cost_ratio_10000_to_10": figures["many"] / figures["few"],
        "micros_with_10_rules": figures["few"],
        "micros_with_10000_rules": figures["many"],
        "route_micros": figures["route"],
        "cel_micros": figures["cel"],
    }


def _interleaved(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds per message of each variant. Every round runs all variants."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, variant in variants.items():
            start = time.perf_counter()
            for _ in range(MESSAGES // 20):
                variant()
            taken[name].append((time.perf_counter() - start) / MESSAGES * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def _bare(messages: list[Envelope]) -> Callable[[], object]:
    environment = cel.NewEnv(variables={"payload": cel.Type.DYN})
    program = environment.compile(CONDITION)
    return lambda: [program.eval(data={"payload": message.data}).value() for message in messages]


def _router(count: int) -> Router:
    """Router with rules on type and header, or type and payload field, every third with a condition.

    The first five types are those of the messages.
    """
    routes = []
    for number in range(count):
        match = {"type": f"type-{number // 2}"}
        match |= {"headers.region": f"eu-{number % 2}"} if number % 4 < 2 else {"payload.region": "eu-1"}
        routes.append(
            {
                "name": f"route-{number}",
                "from": "orders",
                "match": match,
                "schedule": {"orchestration": "order_saga", "instance_id": "order-{{ payload.id }}"},
            }
            | ({"when": CONDITION} if number % 3 == 0 else {})
        )
    config = BridgeConfig.model_validate(
        {
            "engines": {"default": {"type": "embedded"}},
            "brokers": {"local": {"type": "local"}},
            "sources": {"orders": {"broker": "local", "topics": ["orders"], "no_match": "ignore"}},
            "routes": routes,
        }
    )
    return Router.compile("orders", config, lambda path, what: Problem("", 0, 0, ".".join(map(str, path)), what))


def _envelope(kind: str, region: str, payload: dict[str, Any]) -> Envelope:
    return Envelope(
        message_id=f"/shop#{payload['id']}",
        id=payload["id"],
        source="/shop",
        type=kind,
        data=payload,
        position=Position("local", "orders", 0, 1),
        headers={"region": region, "content-type": "application/cloudevents+json"},
        key=payload["id"],
    )
