"""`bridge route`, `test`, `diff`, `shadow` and a running bridge decide the same, for random rules and messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.app.explain import explain
from bridge.app.rules.comparison import ConfigurationRules, RulesComparison
from bridge.app.rules.decision import decision_of
from bridge.app.serve.shadow import Shadow, ShadowOptions
from bridge.config.source import Loaded, load
from bridge.core.commands import ScheduleOrchestration, SignalEntity
from bridge.core.message import Message
from bridge.testing import LocalBridge
from bridge.testing.fixtures.decision import expectation_of
from bridge.testing.fixtures.document import read_fixtures
from bridge.testing.fixtures.runner import FixtureRunner
from tests.kit.examples import examples

pytestmark = pytest.mark.long

CONDITIONS = st.sampled_from([
    "payload.n > 1", "payload.s == 'x'", "has(payload.n) && payload.n < 3", "payload.l.exists(i, i == 'x')",
    "payload.n", "true", "false", "payload.s.startsWith(payload.t)", "event.key == 'k' || payload.n == 2",
])  # fmt: skip
MATCHES = st.dictionaries(
    st.sampled_from(["payload.s", "payload.n", "key", "topic", "headers.h"]),
    st.sampled_from(["x", "y", 1, 2, "k", "in", True, ["x", "y"], [1, 2]]),
    max_size=2,
)
IDS = st.sampled_from(["c-{{ payload.s }}", "c-{{ payload.n }}", "constant", "{{ payload.s }}", "c-{{ payload.l }}"])
INPUTS = st.sampled_from(["payload", "{'n': payload.n}", "payload.?s.orValue('none')", "[payload.s, payload.n]"])
COMMANDS: st.SearchStrategy[dict[str, Any]] = (
    st.fixed_dictionaries(
        {"schedule": st.fixed_dictionaries({"orchestration": st.just("work"), "instance_id": IDS, "input": INPUTS})}
    )
    | st.fixed_dictionaries(
        {
            "signal_entity": st.fixed_dictionaries(
                {"entity": st.just("stock"), "key": IDS, "operation": st.just("add"), "input": INPUTS}
            )
        }
    )
    | st.just({"ignore": {}})
    | st.just({"raise_event": {"instance_id": "none", "name": "e", "on_missing": "ignore"}})
)
RULES = st.lists(
    st.builds(
        lambda match, options, command: {"from": "in", "match": match, **options, **command},
        MATCHES,
        st.fixed_dictionaries(
            {},
            optional={
                "when": CONDITIONS,
                "continue": st.booleans(),
                "on_error": st.sampled_from(["dead_letter", "no_match"]),
                "for_each": st.just("payload.l"),
            },
        ),
        COMMANDS,
    ),
    max_size=5,
)
MESSAGES = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {},
            optional={
                "n": st.integers(0, 3) | st.just(1.5) | st.booleans(),
                "s": st.sampled_from(["x", "y", "a/b", ""]),
                "l": st.lists(st.sampled_from(["x", "y"]), max_size=2),
            },
        )
        | st.just("{"),
        st.none() | st.sampled_from(["k", "x"]),
        st.dictionaries(st.just("h"), st.sampled_from("xy")),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


def configured(rules: list[dict[str, Any]], no_match: str, directory: Path) -> Loaded:
    file = directory / "bridge.yaml"
    document = {
        "engine": {"type": "embedded"},
        "workflows": {"external": ["work", "stock"]},
        "brokers": {"local": {"type": "local"}},
        "sources": {"in": {"broker": "local", "topics": ["in"], "codec": "json", "no_match": no_match}},
        "routes": [{"name": f"r{at}", **rule} for at, rule in enumerate(rules)],
    }
    file.write_text(json.dumps(document))
    return load([file], environ={})


def lines(messages: list[tuple[Any, str | None, dict[str, str]]]) -> Iterator[tuple[dict[str, Any], Message]]:
    for body, key, headers in messages:
        text = body if isinstance(body, str) else json.dumps(body)
        encoded = tuple((name, value.encode()) for name, value in headers.items())
        yield (
            {"body": text, "key": key, "headers": headers},
            Message(text.encode(), None if key is None else key.encode(), encoded),
        )


@given(rules=RULES, no_match=st.sampled_from(["ignore", "dead_letter"]), messages=MESSAGES)
@settings(max_examples=examples(300))
def test_route_and_test(rules: list[dict[str, Any]], no_match: str, messages: list[Any], directory: Path) -> None:
    loaded = configured(rules, no_match, directory)
    tests = []
    for at, (line, message) in enumerate(lines(messages)):
        decision = decision_of(explain(loaded, "in", message), loaded.config)
        tests.append({"name": f"t{at}", "message": line, "expect": expectation_of(decision)})
    file = directory / "tests.yaml"
    file.write_text(yaml.safe_dump({"tests": tests}))
    results = list(FixtureRunner(loaded).run(read_fixtures([file], loaded.config)))
    assert [result.lines() for result in results] == [[]] * len(tests)


@given(rules=RULES, others=RULES, no_match=st.sampled_from(["ignore", "dead_letter"]), messages=MESSAGES)
@settings(max_examples=examples(200))
def test_route_and_diff(
    rules: list[dict[str, Any]], others: list[dict[str, Any]], no_match: str, messages: list[Any], directory: Path
) -> None:
    """A message is different in `bridge diff` if `bridge route` shows another decision, and only then."""
    old, new = configured(rules, no_match, directory), configured(others, "ignore", directory)
    found, same = comparison(old, new), comparison(old, old)
    for _, message in lines(messages):
        decisions = [decision_of(explain(loaded, "in", message), loaded.config) for loaded in (old, new)]
        parts = [json.dumps([each.outcome, each.routes, each.commands, each.dead_letter]) for each in decisions]
        before = found.different
        assert asyncio.run(found.add("in", message)) == (parts[0] == parts[1])
        assert found.different - before == (parts[0] != parts[1])
        assert asyncio.run(same.add("in", message))
    assert sum(group.count for group in found.groups) == found.different
    for group in found.groups:
        assert group.condition.old != group.condition.new or group.condition.old_at != group.condition.new_at
        examples_of = [
            decision_of(explain(loaded, "in", group.example.message), loaded.config) for loaded in (old, new)
        ]
        assert [group.example.old, group.example.new] == examples_of
    json.dumps(found.to_dict())


def comparison(old: Loaded, new: Loaded) -> RulesComparison:
    return RulesComparison(ConfigurationRules(old), ConfigurationRules(new))


@given(rules=RULES, others=RULES, no_match=st.sampled_from(["ignore", "dead_letter"]), messages=MESSAGES)
@settings(max_examples=examples(20))
def test_diff_and_a_shadow_beside_the_running_bridge(
    rules: list[dict[str, Any]], others: list[dict[str, Any]], no_match: str, messages: list[Any], directory: Path
) -> None:
    """A shadow gets the messages that the bridge has settled, and finds the same groups as `bridge diff`."""
    old, new = configured(rules, no_match, directory), configured(others, "ignore", directory)
    shadowed, diff = comparison(old, new), comparison(old, new)
    shadow = Shadow(shadowed, new.version, ShadowOptions(candidate=("new.yaml",)))
    with LocalBridge(old) as bridge:
        bridge._daemon.decisions.add(shadow.offer)
        for _, message in lines(messages):
            bridge.send("in", message)
    asyncio.run(shadow.finish())
    for _, message in lines(messages):
        asyncio.run(diff.add("in", message))
    assert shadow.to_dict()["settled"] == shadowed.messages == diff.messages == len(messages)

    def facts(found: RulesComparison) -> list[Any]:
        return [(group.count, group.old, group.new, group.members, group.condition) for group in found.groups]

    assert facts(shadowed) == facts(diff)


@given(rules=RULES, no_match=st.sampled_from(["ignore", "dead_letter"]), messages=MESSAGES)
@settings(max_examples=examples(20))
def test_route_and_the_running_bridge(
    rules: list[dict[str, Any]], no_match: str, messages: list[Any], directory: Path
) -> None:
    """The engine starts without instances: a start is executed once, and an event finds nothing."""
    loaded = configured(rules, no_match, directory)
    with LocalBridge(loaded) as bridge:
        started: set[str] = set()
        for _, message in lines(messages):
            answer = explain(loaded, "in", message)
            before, reasons = bridge.outcomes("in"), bridge.dead_letters("in")
            bridge.send("in", message)
            outcomes = {name: count - before.get(name, 0) for name, count in bridge.outcomes("in").items()}
            dead = {name: count - reasons.get(name, 0) for name, count in bridge.dead_letters("in").items()}
            expected = answer.outcome.value
            if answer.reason is None and answer.explanation is not None and answer.explanation.decision is not None:
                commands = [step.command for step in answer.explanation.decision.steps]
                starts = [command for command in commands if isinstance(command, ScheduleOrchestration)]
                signals = [command for command in commands if isinstance(command, SignalEntity)]
                new = {command.instance_id for command in starts} - started
                started |= new
                expected = "executed" if new or signals else "ignored"
            assert {name for name, count in outcomes.items() if count} == {expected}
            assert {name for name, count in dead.items() if count} == ({answer.reason} if answer.reason else set())
