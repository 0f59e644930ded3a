"""Coverage of rules: its points, places and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.explain import SourceRules
from bridge.cli import root
from bridge.config.source import Loaded, load
from bridge.core.message import Message
from bridge.testing.fixtures.coverage import Coverage

CONFIG = """
engine: {type: embedded}
workflows: {external: [work]}
brokers: {local: {type: local}}
sources:
  in: {broker: local, topics: [in], codec: json, no_match: ignore}
routes:
  - name: first
    from: in
    match: {payload.kind: [a, b], key: k}
    when: |
      payload.n > 5 && (payload.n < 9 ||
        has(payload.free))
    on_error: no_match
    schedule:
      orchestration: work
      instance_id: "w-{{ payload.id }}-{{ payload.id }}"
      input: "payload.n > 6 ? 'much' : 'little'"
      tags: {who: "{{ payload.who }}"}
  - name: second
    from: in
    for_each: payload.items
    signal_entity: {entity: work, key: "{{ item }}", operation: add}
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    return load([Path("bridge.yaml")], environ={})


def covered(loaded: Loaded, *messages: tuple[dict[str, Any], str | None]) -> list[str]:
    """Uncovered points after some messages, each a body and a key."""
    coverage = Coverage(loaded)
    rules = SourceRules.build(loaded, "in")
    for body, key in messages:
        coverage.observe(rules, rules.decide(Message(json.dumps(body).encode(), key.encode() if key else None)))
    return [str(point) for point in coverage.uncovered]


def test_every_point_has_its_place(loaded: Loaded) -> None:
    assert covered(loaded) == [
        "bridge.yaml:8:11 first: no test matches this rule",
        "bridge.yaml:10:13 first: no test has another payload.kind",
        "bridge.yaml:10:28 first: no test has payload.kind equal to `a`",
        "bridge.yaml:10:31 first: no test has payload.kind equal to `b`",
        "bridge.yaml:10:40 first: no test has key equal to `k`",
        "bridge.yaml:10:40 first: no test has another key",
        "bridge.yaml:11:11 first: no test lets `when` fail, for `on_error: no_match`",
        "bridge.yaml:12:7 first: when: `payload.n > 5` is never true",
        "bridge.yaml:12:7 first: when: `payload.n > 5` is never false",
        "bridge.yaml:12:25 first: when: `payload.n < 9` is never true",
        "bridge.yaml:12:25 first: when: `payload.n < 9` is never false",
        "bridge.yaml:13:9 first: when: `has(payload.free)` is never true",
        "bridge.yaml:13:9 first: when: `has(payload.free)` is never false",
        "bridge.yaml:17:26 first: no test evaluates schedule.instance_id `payload.id`",
        "bridge.yaml:17:43 first: no test evaluates schedule.instance_id `payload.id`",
        "bridge.yaml:18:15 first: no test evaluates schedule.input `payload.n > 6 ? 'much' : 'little'`",
        "bridge.yaml:18:15 first: schedule.input: `payload.n > 6` is never true",
        "bridge.yaml:18:15 first: schedule.input: `payload.n > 6` is never false",
        "bridge.yaml:19:23 first: no test evaluates schedule.tags.who `payload.who`",
        "bridge.yaml:20:11 second: no test matches this rule",
        "bridge.yaml:22:15 second: no test evaluates for_each `payload.items`",
        "bridge.yaml:23:44 second: no test evaluates signal_entity.key `item`",
    ]


def test_an_operand_behind_a_deciding_one_is_not_covered(loaded: Loaded) -> None:
    whole = {"kind": "a", "id": 1, "who": "w"}
    left = covered(loaded, (whole | {"n": 1}, "k"), (whole | {"n": 6}, "k"))
    assert "bridge.yaml:12:25 first: when: `payload.n < 9` is never false" in left
    assert "bridge.yaml:13:9 first: when: `has(payload.free)` is never true" in left
    assert "bridge.yaml:18:15 first: schedule.input: `payload.n > 6` is never true" in left
    assert not [line for line in left if "`payload.n > 5`" in line or "evaluates schedule" in line]


def test_everything(loaded: Loaded) -> None:
    whole = {"kind": "a", "id": 1, "who": "w"}
    assert not covered(
        loaded,
        (whole | {"n": 1, "items": ["x"]}, "k"),
        (whole | {"n": 6}, "k"),
        (whole | {"n": 8, "kind": "b"}, "k"),
        (whole | {"n": 10, "free": 1}, "k"),
        (whole | {"n": 10, "items": []}, "k"),
        (whole | {"n": "text"}, "k"),
        (whole | {"kind": "c"}, "l"),
    )


def test_a_command_that_fails_evaluates_nothing(loaded: Loaded) -> None:
    left = covered(loaded, ({"kind": "a", "n": 6, "id": 1}, "k"), ({"items": []}, None))
    assert not [line for line in left if "no test matches" in line]
    assert len([line for line in left if "evaluates" in line]) == 6


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["test", *arguments])


def test_the_command(loaded: Loaded) -> None:
    Path("tests/a.yaml").write_text("tests:\n- {name: a, message: {body: {items: [x]}}, expect: {route: second}}\n")
    result = run("--coverage")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "coverage 22.7 %, 5 of 22"
    low = run("--fail-under", "22.8", "-o", "json")
    assert (low.exit_code, low.stderr) == (1, "error: the coverage is 22.7 %, less than 22.8 %\n")
    document = json.loads(low.stdout)["coverage"]
    assert (document["percent"], document["covered"], document["total"]) == (22.73, 5, 22)
    assert document["uncovered"][0]["place"] == "bridge.yaml:8:11"
    assert run("--fail-under", "22.7").exit_code == 0


def test_the_page(loaded: Loaded) -> None:
    Path("tests/a.yaml").write_text("tests:\n- {name: a, message: {body: {items: [x]}}, expect: {route: second}}\n")
    assert run("--html", "page.html").exit_code == 0
    page = Path("page.html").read_text()
    assert "<h1>Coverage of rules: 22.7 %</h1>" in page
    assert '<tr class="covered"><td>second</td><td>3</td><td>3</td></tr>' in page
    assert "payload.n &gt; 5 &amp;&amp; (payload.n &lt; 9 ||" in page
    assert "<script" not in page
    ElementTree.fromstring(page.partition("\n")[2].replace('<meta charset="utf-8">', ""))
    assert "page.html" in run("--html", "nowhere/page.html").stderr


LEAVES = st.sampled_from(["payload.n > 5", "payload.m == 'x'", "has(payload.free)", "payload.b", "!payload.b", "true"])
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
    max_leaves=6,
)
BODIES = st.fixed_dictionaries(
    {}, optional={"n": st.integers(0, 9), "m": st.sampled_from("xy"), "free": st.none(), "b": st.booleans()}
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@given(when=CONDITIONS, body=BODIES)
def test_covered_operands_explain_the_result(when: str, body: dict[str, Any], directory: Path) -> None:
    """A condition whose operands all have a value has the value that the router gives it."""
    file = directory / "when.yaml"
    file.write_text(
        CONFIG.partition("  - name: first")[0] + f'  - {{name: r, from: in, when: "{when}", ignore: {{}}}}\n'
    )
    loaded = load([file], environ={})
    coverage, rules = Coverage(loaded), SourceRules.build(loaded, "in")
    answer = rules.decide(Message(json.dumps(body).encode()))
    coverage.observe(rules, answer)
    seen = {point.text for point in coverage.points if point.is_covered}
    assert ("no test matches this rule" in seen) is (answer.routes == ("r",))
    if answer.reason is None:
        assert any(text.startswith("when: ") for text in seen)
