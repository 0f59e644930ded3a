"""Differences between the decisions of two configurations, with the first differing condition and its place."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.rules import comparison
from bridge.app.rules.comparison import ConfigurationRules, RulesComparison
from bridge.config.source import Loaded, load
from bridge.core.message import Message, Position

RULE: dict[str, Any] = {
    "name": "start",
    "match": {"topic": "in"},
    "when": "payload.n > 1",
    "schedule": {"orchestration": "work", "instance_id": "w-{{ payload.id }}", "input": "payload"},
}
OTHER: dict[str, Any] = {"name": "other", "ignore": {}}
MESSAGE: dict[str, Any] = {"id": "a", "n": 2}


def configured(directory: Path, name: str, *rules: dict[str, Any], **source: Any) -> Loaded:
    file = directory / name
    settings = {"broker": "local", "topics": ["in"], "codec": "json", "no_match": "dead_letter", **source}
    lines = [
        "engine: {type: embedded}",
        "workflows: {external: [work, rest]}",
        "brokers: {local: {type: local}}",
        f"sources: {{in: {json.dumps(settings)}}}",
        "routes:",
    ]
    for rule in rules:
        head, *rest = ({"from": "in"} | rule).items()
        lines.append(f"  - {head[0]}: {json.dumps(head[1])}")
        lines += [f"    {key}: {json.dumps(value)}" for key, value in rest]
    file.write_text("\n".join(lines))
    return load([file], environ={})


def compared(old: Loaded, new: Loaded, *bodies: Any) -> RulesComparison:
    found = RulesComparison(ConfigurationRules(old), ConfigurationRules(new))

    async def add() -> None:
        for at, body in enumerate(bodies or (MESSAGE,)):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            await found.add("in", Message(raw, b"k"), Position("local", "in", 0, at))

    asyncio.run(add())
    return found


def changed(**members: Any) -> dict[str, Any]:
    return RULE | {"schedule": RULE["schedule"] | members}


RULE_WITHOUT_COMMAND = {name: value for name, value in RULE.items() if name != "schedule"}


@pytest.mark.parametrize(
    ("old", "new", "shapes", "condition"),
    [
        pytest.param(
            [RULE, OTHER], [RULE | {"when": "payload.n > 2"}, OTHER],
            ("start (schedule)", "ignored by other"),
            ("start", "when", "payload.n > 1 is true", "payload.n > 2 is false", "old.yaml:9", "new.yaml:9"),
            id="when",
        ),
        pytest.param(
            [RULE, OTHER], [RULE | {"when": "payload.m > 2"}, OTHER],
            ("start (schedule)", "dead letter (expression_error)"),
            ("start", "when", "payload.n > 1 is true", "payload.m > 2 fails", "old.yaml:9", "new.yaml:9"),
            id="when that fails",
        ),
        pytest.param(
            [RULE, OTHER], [RULE | {"match": {"topic": "out"}}, OTHER],
            ("start (schedule)", "ignored by other"),
            ("start", "match.topic", 'topic: "in" holds', 'topic: "out" does not hold', "old.yaml:8", "new.yaml:8"),
            id="match",
        ),
        pytest.param(
            [RULE, OTHER], [RULE | {"match": {"topic": "in", "payload.id": ["b", "c"]}}, OTHER],
            ("start (schedule)", "ignored by other"),
            ("start", "match.payload.id", None, 'payload.id: ["b", "c"] does not hold', "old.yaml:8", "new.yaml:8"),
            id="further equality",
        ),
        pytest.param(
            [RULE, OTHER], [OTHER],
            ("start (schedule)", "ignored by other"),
            ("start", "rule", "matches", "no such rule", "old.yaml:6", None),
            id="rule is gone",
        ),
        pytest.param(
            [OTHER], [RULE, OTHER],
            ("ignored by other", "start (schedule)"),
            ("start", "rule", "no such rule", "matches", None, "new.yaml:6"),
            id="new rule",
        ),
        pytest.param(
            [RULE], [RULE | {"name": "begin"}],
            ("start (schedule)", "begin (schedule)"),
            ("start", "rule", "matches", "no such rule", "old.yaml:6", None),
            id="renamed rule",
        ),
        pytest.param(
            [RULE, OTHER], [OTHER, RULE],
            ("start (schedule)", "ignored by other"),
            ("other", "order", "not reached", "matches", "old.yaml:11", "new.yaml:6"),
            id="order",
        ),
        pytest.param(
            [RULE | {"continue": True}, OTHER], [RULE, OTHER],
            ("start (schedule)", "start (schedule)"),
            ("start", "continue", "continue: true", "continue: false", "old.yaml:11", "new.yaml:6"),
            id="continue",
        ),
        pytest.param(
            [RULE | {"when": "payload.m", "on_error": "no_match"}, OTHER], [RULE | {"when": "payload.m"}, OTHER],
            ("ignored by other", "dead letter (expression_error)"),
            ("start", "on_error", "on_error: no_match", "on_error: dead_letter", "old.yaml:11", "new.yaml:6"),
            id="on_error",
        ),
        pytest.param(
            [RULE], [changed(instance_id="v-{{ payload.id }}")],
            ("start (schedule)", "start (schedule)"),
            ("start", "schedule.instance_id", "w-{{ payload.id }}", "v-{{ payload.id }}", "old.yaml:10", "new.yaml:10"),
            id="id",
        ),
        pytest.param(
            [RULE], [changed(instance_id="v-{{ payload.m }}")],
            ("start (schedule)", "dead letter (expression_error)"),
            ("start", "schedule", "succeeds", "expression_error", "old.yaml:10", "new.yaml:10"),
            id="command that fails",
        ),
        pytest.param(
            [RULE | {"for_each": "[1]"}], [RULE | {"for_each": "[1, 2]"}],
            ("start (schedule)", "start (schedule)"),
            ("start", "for_each", "[1]", "[1, 2]", "old.yaml:11", "new.yaml:11"),
            id="number of commands",
        ),
        pytest.param(
            [RULE], [RULE_WITHOUT_COMMAND | {"terminate": {"instance_id": "w-{{ payload.id }}"}}],
            ("start (schedule)", "start (terminate)"),
            ("start", "command", "schedule", "terminate", "old.yaml:10", "new.yaml:10"),
            id="another command",
        ),
    ],
)  # fmt: skip
def test_the_first_differing_condition(
    old: list[dict[str, Any]],
    new: list[dict[str, Any]],
    shapes: tuple[str, str],
    condition: tuple[Any, ...],
    tmp_path: Path,
) -> None:
    found = compared(configured(tmp_path, "old.yaml", *old), configured(tmp_path, "new.yaml", *new))
    assert (found.messages, found.different, len(found.groups)) == (1, 1, 1)
    group = found.groups[0]
    assert (group.old.text, group.new.text) == shapes
    found_at = group.condition
    places = [
        None if at is None else ":".join(Path(at).name.split(":")[:2]) for at in (found_at.old_at, found_at.new_at)
    ]
    assert (found_at.route, found_at.member, found_at.old, found_at.new, *places) == condition
    json.dumps(found.to_dict())


def test_sources_that_differ(tmp_path: Path) -> None:
    strict = configured(tmp_path, "old.yaml", RULE)
    lenient = configured(tmp_path, "new.yaml", RULE, no_match="ignore")
    [group] = compared(strict, lenient, {"n": 0}).groups
    assert (group.old.text, group.new.text) == ("dead letter (no_route)", "ignored")
    assert (group.condition.member, group.condition.old, group.condition.new) == ("no_match", "dead_letter", "ignore")
    text = configured(tmp_path, "text.yaml", OTHER, codec="text")
    [group] = compared(configured(tmp_path, "json.yaml", OTHER), text, b"{").groups
    assert (group.condition.member, group.condition.old, group.condition.new) == ("codec", "decode_error", "decoded")
    gone = RulesComparison(ConfigurationRules(strict), ConfigurationRules(lenient))
    lenient.config.sources.clear()
    asyncio.run(gone.add("in", Message(b"{}")))
    assert gone.groups[0].new.text == "not received"


def test_values_of_another_type_are_different(tmp_path: Path) -> None:
    old = configured(tmp_path, "old.yaml", changed(input="{'n': 1, 'm': 2}"))
    for value, number in (("{'m': 2, 'n': 1}", 0), ("{'n': 1.0, 'm': 2}", 1), ("{'n': true, 'm': 2}", 1)):
        found = compared(old, configured(tmp_path, "new.yaml", changed(input=value)))
        assert found.different == number, value
    assert found.groups[0].members == ("start.input",)


def test_the_definition_of_a_saga(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "config" / "sagas.yaml"
    body = {"specversion": "1.0", "id": "1", "source": "/s", "type": "purchase.requested", "data": {"id": "p-1"}}
    other = tmp_path / "sagas.yaml"
    other.write_text(file.read_text().replace("timeout: 2m", "timeout: 3m"))
    old, new = load([file], environ={}), load([other], environ={})
    found = RulesComparison(ConfigurationRules(old), ConfigurationRules(new))
    asyncio.run(found.add("purchases", Message(json.dumps(body).encode())))
    assert [group.members for group in found.groups] == [("start-purchase.saga",)]
    assert (found.groups[0].condition.member, found.groups[0].condition.old) == ("schedule.saga", "purchase")


def test_each_configuration_has_its_own_functions(tmp_path: Path) -> None:
    sides = []
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_functions.py").write_text(
            f"def value(event):\n    return {{'id': 'a', 'n': {value}}}\n"
        )
        sides.append(configured(tmp_path / name, "bridge.yaml", RULE | {"map": "own_functions:value", "when": "true"}))
    found = compared(sides[0], sides[1], MESSAGE, MESSAGE)
    assert (found.different, [group.members for group in found.groups]) == (2, [("start.input",)])


def test_the_number_of_groups_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_GROUPS", 1)
    old = configured(tmp_path, "old.yaml", RULE, OTHER)
    new = configured(tmp_path, "new.yaml", changed(input="payload.m"), OTHER | {"ignore": {}, "when": "payload.n > 0"})
    found = compared(old, new, MESSAGE, {"n": 0}, MESSAGE)
    assert (found.different, found.ungrouped, [group.count for group in found.groups]) == (3, 1, [2])
