"""Valid rules that probably do not mean what they say, and those that do."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.routing import lint
from bridge.routing.rule_checks import with_double_braces
from tests.routing.config import config, locate, route


def found(*routes: dict[str, Any], **rest: Any) -> list[tuple[str, str]]:
    return [(problem.code, problem.path) for problem in lint(config(*routes, **rest), locate)]


def schedule(**keys: Any) -> dict[str, Any]:
    return {"schedule": {"orchestration": "saga", "instance_id": "order-{{ payload.id }}", **keys}}


@pytest.mark.parametrize(
    "instance_id",
    ["order-{payload.id}", "order-{ event.key }", "{payload.a}-{{ payload.b }}", "payload.id", "event.key", "item.id"],
)
def test_templates_without_double_braces(instance_id: str) -> None:
    rule = route("a", **schedule(instance_id=instance_id))
    assert ("R004", "routes.0.schedule.instance_id") in found(rule)
    assert "R005" not in [code for code, _ in found(rule)]


def test_single_braces_are_found_in_every_template() -> None:
    limits = {"rate": "5/s", "per": {"value": "{{ payload.a }}{event.key}", "rate": "1/s"}}
    rule = route("a", **schedule(tags={"region": "{payload.region}"}), limits=limits)
    source = {"identity": "{payload.id}", "ordering": "{{ payload.a }}-{payload.b}"}
    assert {path for code, path in found(rule, source=source) if code == "R004"} == {
        "routes.0.schedule.tags.region", "routes.0.limits.per.value", "sources.orders.identity",
        "sources.orders.ordering",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["payment", "event.created", "a-{b}", "{{ {'payload': 1}['payload'] }}", "{{ '{payload.id}' }}", "{0}"]
)
def test_text_that_is_no_expression(name: str) -> None:
    assert found(route("a", raise_event={"instance_id": "order-{{ payload.id }}", "name": name})) == []


@pytest.mark.parametrize("instance_id", ["nightly", "report-{{ vars.region }}", "x-{{ 'y' }}"])
@pytest.mark.parametrize("on_existing", ["ignore", "dead_letter"])
def test_constant_instance_ids(instance_id: str, on_existing: str) -> None:
    rule = route("a", **schedule(instance_id=instance_id, on_existing=on_existing))
    assert [code for code, _ in found(rule, vars={"region": "eu"})] == ["R005"]


@pytest.mark.parametrize(
    "rule",
    [
        schedule(instance_id="nightly", on_existing="restart"),
        schedule(instance_id="nightly", on_existing="raise", event="again"),
        {"start_or_raise": {"orchestration": "one", "instance_id": "collector", "event": "more"}},
        {"raise_event": {"instance_id": "nightly", "name": "go"}},
        schedule(instance_id="x-{{ index }}", input="item") | {"for_each": "payload.lines"},
        schedule(instance_id="x-{{ item.id }}", input="item") | {"for_each": "payload.lines"},
        schedule(instance_id="x-{{ payload.items[0] }}"),
    ],
)
def test_ids_that_are_meant(rule: dict[str, Any]) -> None:
    assert found(route("a", **rule)) == []


def test_one_id_for_all_items() -> None:
    rule = route("a", for_each="payload.lines", **schedule(instance_id="line-{{ payload.id }}", input="item"))
    assert found(rule) == [("R006", "routes.0.schedule.instance_id")]


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ({"type": "order.*"}, "routes.0.match.type"),
        ({"type": ["order.created", "*"]}, "routes.0.match.type.1"),
        ({"subject": "^order"}, "routes.0.match.subject"),
        ({"key": "abc$"}, "routes.0.match.key"),
        ({"payload.lines[0].sku": "tea"}, "routes.0.match.payload.lines[0].sku"),
        ({"headers.*": "x"}, "routes.0.match.headers.*"),
        *(({"type": value}, "routes.0.match.type") for value in (
            "order.?", "?rder", "order.?.created", "order.[a-z]+", "order.[cd]+", "order.(created|paid)", "order.{a,b}",
            "order.a|order.b", "order.a,order.b", "order..+", r"order\.created", r"order-\d+", "order.#",
            "order.>", "order.%",
        )),
        ({"topic": "+/orders"}, "routes.0.match.topic"),
        ({"subject": "sensors/+/heat"}, "routes.0.match.subject"),
        ({"payload.path": "sensors/#"}, "routes.0.match.payload.path"),
    ],
)  # fmt: skip
def test_wildcards(match: dict[str, Any], path: str) -> None:
    assert (("R010", path)) in found(route("a", match=match))


@pytest.mark.parametrize(
    "value",
    ["?", "Are you ok?", "/orders?id=1", "https://shop/?a=b", "C#", "100%", "a|b", "+49 30", "x [draft]", "(none)",
     "a, b", "1+1", "{id}", "a>b", r"C:\data", "#1", "a.b", "v1.#2"],
)  # fmt: skip
def test_values_that_only_look_like_wildcards(value: str) -> None:
    assert found(route("a", match={"payload.text": value})) == []


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ({"key": 1001}, "routes.0.match.key"),
        ({"headers.priority": [1, "2"]}, "routes.0.match.headers.priority.0"),
        ({"type": True}, "routes.0.match.type"),
        ({"topic": "oders"}, "routes.0.match.topic"),
    ],
)
def test_equalities_that_never_hold(match: dict[str, Any], path: str) -> None:
    assert found(route("a", match=match)) == [("R011", path)]


def test_text_has_no_members() -> None:
    rule = route("a", match={"payload.id": "x"}, ignore={})
    assert found(rule, source={"codec": "text"}) == [("R011", "routes.0.match.payload.id")]


@pytest.mark.parametrize(
    "match",
    [
        {"payload.n": 5}, {"extensions.count": 5}, {"topic": "orders"}, {"type": ["a", "b"]}, {"subject": "a$b"},
        {"payload.note": "$"}, {"headers.a": "true"},
    ],
)  # fmt: skip
def test_equalities_that_may_hold(match: dict[str, Any]) -> None:
    assert found(route("a", match=match)) == []


def _two(first: str, second: str, **other: Any) -> list[dict[str, Any]]:
    more = {"orchestration": "other", "instance_id": second, **other}
    starts = route("a", match={"type": "a"}, **schedule(instance_id=first))
    return [starts, route("b", match={"type": "b"}, schedule=more)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("order-{{ payload.id }}", "order-{{ payload.id }}"),
        ("order-{{ payload.id }}", "order-{{ payload.order }}"),
    ],
)
def test_one_id_for_two_orchestrations(first: str, second: str) -> None:
    assert found(*_two(first, second)) == [("R017", "routes.1.schedule.instance_id")]


@pytest.mark.parametrize(
    ("first", "second", "other"),
    [
        ("order-{{ payload.id }}", "refund-{{ payload.id }}", {}),
        ("order-{{ payload.id }}", "order-{{ payload.id }}-b", {}),
        ("order-{{ payload.id }}", "order-{{ payload.id }}", {"orchestration": "saga"}),
    ],
)
def test_ids_of_their_own(first: str, second: str, other: dict[str, Any]) -> None:
    assert found(*_two(first, second, **other)) == []


PAYMENTS = {
    "sources": {
        name: {"broker": "local", "topics": [name], "no_match": "dead_letter"} for name in ("orders", "payments")
    }
}


def _paid(**keys: Any) -> dict[str, Any]:
    command = {"instance_id": "order-{{ payload.order }}", "name": "paid", **keys}
    return {"name": "paid", "from": "payments", "match": {"type": "paid"}, "raise_event": command}


def test_independent_topics() -> None:
    assert found(route("start", match={"type": "a"}), _paid(), **PAYMENTS) == [("R019", "routes.1.raise_event")]


@pytest.mark.parametrize(
    "event",
    [
        _paid(on_missing="retry"),
        _paid(on_missing={"wait": "1h"}),
        _paid(name="reply:{{ event.headers['correlation-id'] }}"),
        _paid(instance_id="other-{{ payload.id }}"),
        {**_paid(), "from": "orders"},
        {**_paid(), "from": ["orders", "payments"]},
    ],
)
def test_events_that_come_later(event: dict[str, Any]) -> None:
    assert found(route("start", match={"type": "a"}), event, **PAYMENTS) == []


def test_sources_of_one_domain_have_a_common_order() -> None:
    sources = {name: source | {"ordering_domain": "shop"} for name, source in PAYMENTS["sources"].items()}
    assert found(route("start", match={"type": "a"}), _paid(), sources=sources) == []


@pytest.mark.parametrize(
    ("template", "fixed"),
    [
        ("order-{payload.id}", "order-{{ payload.id }}"),
        ("{{ payload.a }}-{payload.b}-{ index }", "{{ payload.a }}-{{ payload.b }}-{{ index }}"),
        (" payload.id ", "{{ payload.id }}"),
        ("{{ '{payload.id}' }}", None),
        ("order", None),
    ],
)
def test_double_braces(template: str, fixed: str | None) -> None:
    assert with_double_braces(template) == fixed


V1, V2, V3 = "/order/v1", "/order/v2", "/order/v3"


def upcast(match: Any, to: str | None, **rest: Any) -> dict[str, Any]:
    return {"match": match if isinstance(match, dict) else {"dataschema": match}, "data": "payload", **rest} | (
        {} if to is None else {"dataschema": to}
    )


@pytest.mark.parametrize(
    ("upcasts", "expected"),
    [
        ([upcast(V1, V1)], [("R034", "sources.orders.upcast.0.dataschema")]),
        ([upcast([V1, V2], V2)], [("R034", "sources.orders.upcast.0.dataschema")]),
        ([upcast(V2, V3), upcast(V1, V2)], [("R034", "sources.orders.upcast.1.dataschema")]),
        ([upcast(V1, V2), upcast(V1, V3)], [("R034", "sources.orders.upcast.1.match")]),
        ([upcast({"dataschema": "/order/*"}, V2)], [("R010", "sources.orders.upcast.0.match.dataschema")]),
        ([upcast({"extensions.schemaid": 5}, V2)], [("R011", "sources.orders.upcast.0.match.extensions.schemaid")]),
        ([upcast(V1, V2), upcast(V2, V3)], []),
        ([upcast([V1, V2], V3)], []),
        ([upcast(V1, None), upcast(V1, V2)], []),
        ([upcast({"payload.v": 1}, V2), upcast({"payload.v": 1}, V2)], []),
        ([upcast({"dataschema": V1, "type": "a"}, V2), upcast({"dataschema": V1, "type": "b"}, V2)], []),
    ],
)
def test_upcasts(upcasts: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    assert found(route("a"), source={"upcast": upcasts}) == expected
