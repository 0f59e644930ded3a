from typing import Any

import pytest

from bridge.config.model.bridge import BridgeConfig
from bridge.routing import Router, costly, lint, referenced_entities, referenced_orchestrations
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
    *_, (path, what) = sorted(found(route("first", **earlier), route("second", **later)))
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
    received = found(
        route("a", match={"type": "a"}),
        route("b", cancel={"instance_id": "x"}),
        engines=engines,
        source=source,
    )
    assert [path for path, _ in received] == (["routes.0.schedule"] if warned else [])


def test_limits_per_value_beside_which_one_value_holds_the_others() -> None:
    per = {"value": "{{ event.source }}"}
    capped = route("a", limits={"per": {**per, "running": 3}})
    ((path, what),) = found(capped)
    assert path == "routes.0.limits.per"
    assert "may fill source orders" in what
    assert not found(capped, source={"limits": {"per": per}})
    ((path, what),) = found(route(), source={"ordering": "partition", "limits": {"per": per}})
    assert path == "sources.orders.limits.per"
    assert "ordering: key" in what
    ((path, what),) = found(route(), source={"limits": {"concurrency": 8, "per": {**per, "max_in_flight": 8}}})
    assert path == "sources.orders.limits.per.max_in_flight"
    assert "all 8 commands" in what
    later = {"orchestration": "o", "instance_id": "o-{{ payload.id }}", "delay": "1h"}
    found_here = found(
        route("a", limits={"per": {**per, "running": 3}}, schedule=later), source={"limits": {"per": per}}
    )
    assert [path for path, _ in found_here] == ["routes.0.limits.per.running"]


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


def held(**command: Any) -> list[tuple[str, str]]:
    return found(route("a", for_each="payload.lines", **command))


def test_commands_of_for_each_that_hold_the_whole_payload() -> None:
    ids = {"orchestration": "o", "instance_id": "a-{{ index }}"}
    ((path, what),) = held(schedule=ids)
    assert path == "routes.0.schedule.input"
    assert "limits.max_command_bytes, 16MiB" in what
    assert "`input: item`" in what
    assert held(schedule=ids | {"input": "item"}) == []
    assert held(schedule=ids | {"input": "{'item': item, 'of': payload.id}"}) == []
    assert [path for path, _ in held(schedule=ids | {"input": "{'item': item, 'of': payload}"})] == [path]
    assert [path for path, _ in held(raise_event={"instance_id": "a-{{ index }}", "name": "e"})] == [
        "routes.0.raise_event.data"
    ]
    waiting = {"instance_id": "a-{{ index }}", "name": "e", "data": "item", "on_missing": {"start": "o"}}
    assert [path for path, _ in held(raise_event=waiting)] == ["routes.0.raise_event.on_missing"]
    assert held(ignore={}) == []
    assert found(route("a", schedule=ids)) == []


def judged(text: str, **limits: Any) -> list[tuple[str, str]]:
    given = config(route("a", when=text), source={"limits": limits})
    router = Router.compile("orders", given, locate)
    problems = costly(router.compiled, given.sources["orders"].limits, locate)
    assert all(problem.severity == "warning" for problem in problems)
    return [(problem.path, problem.what) for problem in problems]


@pytest.mark.parametrize(
    "text",
    [
        "payload.lines.all(l, l.sku in payload.known)",
        "payload.lines.all(l, payload.lines.exists_one(m, m == l))",
        "payload.lines.map(l, {'line': l, 'of': payload}).size() > 0",
        "payload.a.replace('x', payload.b) == ''",
        "payload.a.matches(payload.pattern)",
        "payload.lines.all(l, l.sku.matches(l.pattern))",
        "payload.lines.all(l, l.sku.matches('^\\\\pL+$'))",
        "payload.lines.map(l, payload.lines.map(m, m)).size() > 0",
    ],
)
def test_expressions_whose_cost_is_a_product(text: str) -> None:
    ((path, what),) = judged(text)
    assert path == "routes.0.when"
    assert "limits.expression_cost (150ms)" in what
    assert text in what


@pytest.mark.parametrize(
    "text",
    [
        "payload.a == payload.b && payload.c > 1.0",
        "payload.lines.map(l, {'sku': l.sku, 'of': payload.id}).size() > 0",
        "payload.lines.filter(l, l.quantity > 0).size() > 0",
        "payload.lines.exists(l, l.tags.exists(t, t == 'x'))",
        "payload.lines.all(l, l.sku in ['a', 'b'])",
        "payload.iban.matches('^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$')",
        "payload.lines.all(l, l.sku.matches('^[A-Z]{3}-[0-9]{4}$'))",
        "payload.text.replace(' ', '-') == payload.slug",
        "payload.rates.map(k, payload.rates[k]).size() > 0",
        "payload.csv.split(',').size() > 3",
        "payload.text.contains(payload.word)",
        "payload.names.join(', ') == ''",
        "{'a': payload, 'b': payload} == payload.c",
    ],
)
def test_expressions_that_are_no_danger(text: str) -> None:
    assert judged(text) == []


def test_a_small_or_a_generous_source_is_not_warned() -> None:
    text = "payload.lines.all(l, l.sku in payload.known)"
    assert judged(text, max_payload="4KiB") == []
    assert judged(text, expression_cost="20s") == []
