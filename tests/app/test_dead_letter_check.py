"""A dry run of dead letters names the line of what fails: the expression, the function, or the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import load_config
from bridge.app.dead_letters.check import DryRun
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message, Position

FUNCTIONS = "def broken(event): raise ValueError\n"
CONFIG = """\
engine: {type: embedded}
workflows: {external: [order]}
brokers: {local: {type: local}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    limits: {max_commands: 2}
    attributes:
      type: "headers['type']"
      subject: payload.about  # attribute
    upcast:
      - match: {type: old}
        data: payload.old  # upcast
  checked:
    broker: local
    topics: [checked]
    codec: json
    no_match: dead_letter
    schema: schema.json  # source-schema
routes:
  - name: condition
    from: orders
    match: {type: condition}
    when: payload.total > 1.0  # condition
    schedule: {orchestration: order, instance_id: x}
  - name: template
    from: orders
    match: {type: template}
    schedule:
      orchestration: order
      instance_id: "order-{{ payload.id }}"  # template
  - name: tags
    from: orders
    match: {type: tags}
    schedule:
      orchestration: order
      instance_id: x
      tags:  # tags
        one: "{{ payload.about }}"
        two: "{{ payload.two }}"
  - name: each
    from: orders
    match: {type: each}
    for_each: payload.items  # each
    schedule: {orchestration: order, instance_id: "x{{ index }}"}
  - name: function
    from: orders
    match: {type: function}
    map: functions:broken  # function
    schedule: {orchestration: order, instance_id: x}
  - name: schema
    from: orders
    match: {type: schema}
    schema: schema.json  # schema
    schedule: {orchestration: order, instance_id: x}
"""


@pytest.fixture
def dry_run(tmp_path: Path) -> DryRun:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "schema.json").write_text('{"required": ["id"]}')
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    return DryRun(load_config([tmp_path / "bridge.yaml"]), None)


@pytest.mark.parametrize(
    ("kind", "payload", "reason", "place"),
    [
        ("condition", {}, "expression_error", "condition"),
        ("template", {}, "expression_error", "template"),
        ("template", {"id": "a\nb"}, "invalid_command", "template"),
        ("tags", {}, "expression_error", "tags"),
        ("each", {}, "expression_error", "each"),
        ("each", {"items": [1, 2, 3]}, "too_many_commands", "each"),
        ("function", {}, "expression_error", "function"),
        ("schema", {}, "schema_error", "schema"),
        ("old", {}, "expression_error", "upcast"),
        ("attribute", {"about": None}, "expression_error", "attribute"),
        ("none", {}, "no_route", None),
    ],
)
async def test_what_fails_is_named_with_its_line(
    dry_run: DryRun, kind: str, payload: dict[str, Any], reason: str, place: str | None
) -> None:
    payload = {"about": "x"} | payload if kind != "attribute" else {}
    found = await verdict(dry_run, "orders", kind, payload)
    assert (found.reason, named(found)) == (reason, place and f"bridge.yaml:{line(place)}")


async def test_the_schema_of_a_source_is_named(dry_run: DryRun) -> None:
    found = await verdict(dry_run, "checked", "any", {})
    assert (found.reason, named(found)) == ("schema_error", f"bridge.yaml:{line('source-schema')}")


async def verdict(dry_run: DryRun, source: str, kind: str, payload: dict[str, Any]) -> Any:
    position = Position("cluster", f"{source}.dlq", 0, 0)
    message = Message(json.dumps(payload).encode(), headers=(("type", kind.encode()),))
    return await dry_run.verdict(DeadLetter(position, "bridge", "no_route", source=source), message, source)


def line(place: str) -> int:
    """Line of the configuration with this comment."""
    return 1 + next(number for number, text in enumerate(CONFIG.splitlines()) if text.endswith(f"# {place}"))


def named(found: Any) -> str | None:
    """Place of a failure, with the name of the file alone."""
    return None if found.where is None else str(found.where).rpartition("/")[2]
