"""Upcasts: older versions of a payload reach schema and rules in the newest form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.check.configuration import check
from bridge.app.composition import load_config
from bridge.app.explain import DecisionResult, SourceRules
from bridge.core.commands import ScheduleOrchestration
from bridge.core.message import Message

CONFIG = """
engine: {type: embedded}
workflows: {external: [order]}
vars: {currency: EUR}
brokers: {local: {type: local}}
sources:
  orders:
    broker: local
    topics: [orders]
    no_match: dead_letter
    schema: order.json
    attributes: {recordname: "headers.?record.orValue(null)"}
    upcast:
      - match: {dataschema: /order/v1}
        data: "{'id': payload.orderId, 'amount': payload.amount}"
        dataschema: /order/v2
      - match: {dataschema: /order/v2}
        map: upcasts:total
        dataschema: /order/v3
      - match: {extensions.recordname: [shop.Old, shop.Older]}
        data: "{'id': event.subject, 'total': payload.total, 'currency': vars.currency}"
routes:
  - name: start
    from: orders
    match: {type: order, payload.currency: EUR}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload}
"""
SCHEMA = {"type": "object", "required": ["id", "total"], "properties": {"total": {"type": "number"}}}
FUNCTIONS = """
def total(envelope):
    return {"id": envelope.data["id"], "total": envelope.data["amount"] / 100, "currency": "EUR"}
"""


@pytest.fixture
def rules(tmp_path: Path) -> SourceRules:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "upcasts.py").write_text(FUNCTIONS)
    return SourceRules.build(load_config([tmp_path / "bridge.yaml"]), "orders")


def event(data: Any, schema: str | None = None, **headers: str) -> Message:
    body = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order", "subject": "o-7", "data": data}
    body |= {} if schema is None else {"dataschema": schema}
    given = {"content-type": "application/cloudevents+json", **headers}
    return Message(json.dumps(body).encode(), None, tuple((name, text.encode()) for name, text in given.items()))


def input_of(answer: DecisionResult) -> Any:
    assert answer.explanation is not None
    assert answer.explanation.decision is not None
    [step] = answer.explanation.decision.steps
    assert isinstance(step.command, ScheduleOrchestration)
    return step.command.input


NEW = {"id": "o-1", "total": 5.0, "currency": "EUR"}


@pytest.mark.parametrize(
    ("message", "expected", "schema"),
    [
        (event({"orderId": "o-1", "amount": 500}, "/order/v1"), NEW, "/order/v3"),
        (event({"id": "o-1", "amount": 500}, "/order/v2"), NEW, "/order/v3"),
        (event(NEW, "/order/v3"), NEW, "/order/v3"),
        (event({"total": 2.5}, record="shop.Older"), {"id": "o-7", "total": 2.5, "currency": "EUR"}, None),
    ],
)
def test_each_version_reaches_the_rules_in_the_newest_form(
    rules: SourceRules, message: Message, expected: Any, schema: str | None
) -> None:
    answer = rules.decide(message)
    assert input_of(answer) == expected
    assert answer.envelope is not None
    assert answer.envelope.dataschema == schema
    assert answer.envelope.message is not None
    assert answer.envelope.message.body == message.body  # a dead letter has the original


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        (event({"id": "o-1"}, "/order/v1"), "expression_error", 'source orders, upcast 1: there is no key "orderId"'),
        (event({"id": "s3cr3t"}, "/order/v2"), "expression_error",
         "source orders, upcast 2: the function raised KeyError"),
        (event({"total": "much"}, record="shop.Old"), "schema_error", "the payload breaks order.json"),
    ],
)  # fmt: skip
def test_a_conversion_that_fails_is_a_dead_letter(
    rules: SourceRules, message: Message, reason: str, detail: str
) -> None:
    answer = rules.decide(message)
    assert (answer.reason, detail in answer.detail) == (reason, True), answer.detail
    assert "s3cr3t" not in answer.detail


def test_a_tombstone_has_nothing_to_convert(rules: SourceRules) -> None:
    tombstone = Message(None, b"k", (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/shop"),
                                     ("ce_type", b"order"), ("ce_dataschema", b"/order/v1")))  # fmt: skip
    answer = rules.decide(tombstone)
    assert answer.envelope is not None
    assert (answer.envelope.data, answer.envelope.dataschema) == (None, "/order/v1")


@pytest.mark.parametrize(
    ("old", "new", "code", "text"),
    [
        ("payload.orderId, 'amount'", "payload.orderId 'amount'", "R001", "upcast[0].data"),
        ("map: upcasts:total", "map: upcasts:none", "C013", "module 'upcasts' has no 'none'"),
        ("map: upcasts:total", "map: upcasts", "C005", "module:function"),
        ("map: upcasts:total", "data: payload\n        map: upcasts:total", "C006", "write either `data` or `map`"),
        ("match: {dataschema: /order/v2}", "match: {}", "C005", "match"),
        ("match: {dataschema: /order/v2}", "match: {schemaid: 3}", "C005", "did you mean `extensions.schemaid`"),
    ],
)
def test_a_wrong_upcast_is_a_problem(
    tmp_path: Path, rules: SourceRules, old: str, new: str, code: str, text: str
) -> None:
    del rules
    assert old in CONFIG
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace(old, new))
    found = [problem for problem in check([tmp_path / "bridge.yaml"]).problems if problem.severity == "error"]
    assert [problem.code for problem in found] == [code], found
    assert text in str(found[0])


def test_without_imports_no_function_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("upcasts:total", "never_imported:total"))
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')\n")
    assert check([tmp_path / "bridge.yaml"], imports=False).errors == 0
    assert check([tmp_path / "bridge.yaml"]).errors == 1
