from typing import Any

import pytest

from bridge.config.model import BridgeConfig
from bridge.routing import lint, referenced_entities, referenced_orchestrations
from tests.routing.config import config, locate, route


def found(*routes: dict[str, Any], **rest: Any) -> list[tuple[str, str]]:
    problems = lint(config(*routes, **rest), locate)
    assert all(problem.severity == "warning" for problem in problems)
    return [(problem.path, problem.what) for problem in problems]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {}),
        ({}, {"match": {"type": "a"}, "when": "payload.n > 1"}),
        ({"match": {"type": "a"}}, {"match": {"type": "a", "key": "k"}}),
        ({"match": {"type": ["a", "b"]}}, {"match": {"type": "b"}}),
        ({"match": {"payload.n": 1}}, {"match": {"payload.n": 1.0}}),
        ({"when": "payload.n > 1"}, {"match": {"type": "a"}, "when": " payload.n > 1 "}),
        ({"when": "true"}, {}),
    ],
)
def test_rules_that_are_never_reached(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    ((path, what),) = found(route("first", **earlier), route("second", **later))
    assert path == "routes.1"
    assert "second is never reached from orders: first takes" in what


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"continue_": True}, {}),
        ({"when": "payload.n > 1"}, {}),
        ({"when": "payload.n > 1"}, {"when": "payload.n > 2"}),
        ({"match": {"type": "a"}}, {"match": {"type": ["a", "b"]}}),
        ({"match": {"type": "a", "key": "k"}}, {"match": {"type": "a"}}),
        ({"match": {"payload.n": 1}}, {"match": {"payload.n": True}}),
        ({"from_": "other"}, {}),
    ],
)
def test_rules_that_are_reached(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    first = route("first", **{key: value for key, value in earlier.items() if key != "from_"})
    first["from"] = earlier.get("from_", "orders")
    assert found(first, route("second", **later)) == []


def test_rules_that_together_leave_nothing() -> None:
    rules = [route("a", match={"type": "a"}), route("b", match={"type": "b"}), route("c", match={"type": ["a", "b"]})]
    ((path, what),) = found(*rules)
    assert path == "routes.2"
    assert "a with b takes" in what


def test_many_rules_are_judged_quickly() -> None:
    rules = [route(f"r{number}", match={"type": f"t{number}", "key": "k"}) for number in range(3000)]
    assert found(*rules, route("last", match={"type": "t5", "key": "k"}))[0][0] == "routes.3000"


def test_ids_without_a_constant_prefix() -> None:
    ((path, what),) = found(
        route("a", match={"type": "a"}, cancel={"instance_id": "{{ payload.id }}"}),
        route("b", match={"type": "b"}, cancel={"instance_id": "x-{{ payload.id }}"}),
        route("c", match={"type": "c"}, signal_entity={"entity": "e", "key": "{{ payload.id }}", "operation": "o"}),
        route("d", match={"type": "d"}, ignore={}),
    )
    assert path == "routes.0.cancel.instance_id"
    assert "no constant prefix" in what


@pytest.mark.parametrize(
    ("kept", "topic", "warned"), [("1h", "7d", True), ("7d", "7d", False), (None, "7d", False), ("1h", None, False)]
)
def test_retention(kept: str | None, topic: str | None, warned: bool) -> None:
    engines = {"default": {"type": "embedded"} | ({"retention": kept} if kept else {})}
    source = {"retention": topic} if topic else {}
    told = found(
        route("a", match={"type": "a"}),
        route("b", cancel={"instance_id": "x"}),
        engines=engines,
        source=source,
    )
    assert [path for path, _ in told] == (["routes.0.schedule"] if warned else [])


def test_references() -> None:
    made: BridgeConfig = config(
        route("a"),
        route("b", start_or_raise={"orchestration": "other", "instance_id": "x", "event": "e"}),
        route("c", signal_entity={"entity": "counter", "key": "k", "operation": "o"}),
        route("d", ignore={}),
    )
    assert referenced_orchestrations(made) == [
        ("saga", ("routes", 0, "schedule", "orchestration")),
        ("other", ("routes", 1, "start_or_raise", "orchestration")),
    ]
    assert referenced_entities(made) == [("counter", ("routes", 2, "signal_entity", "entity"))]
