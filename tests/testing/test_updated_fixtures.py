"""`bridge test --update`: expectations that hold now, in the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli import root
from bridge.config.source import Loaded, load
from bridge.testing.fixtures.document import read_fixtures
from bridge.testing.fixtures.runner import FixtureRunner
from bridge.testing.fixtures.update import update
from tests.testing.test_fixtures import CONFIG


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(tests: str) -> tuple[Result, str]:
    file = Path("tests/rules.yaml")
    file.write_text(tests, newline="")
    result = CliRunner().invoke(root, ["test", "--update"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result, file.read_bytes().decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("expect: {route: large}  # why", "expect: {route: start}  # why"),
        ("expect: {route: 'large', instance_id: x}", "expect: {route: start, instance_id: order-1}"),
        (
            "expect:\n      # first\n      route: large   # second\n      input: {id: 2, total: 5}   # third",
            'expect:\n      # first\n      route: start   # second\n      input: {id: "1", total: 5}   # third',
        ),
        (
            "expect:\n      input:\n        id: 2   # the id\n        total: 5",
            'expect:\n      input:\n        id: "1"   # the id\n        total: 5',
        ),
        (
            "expect:\n      input:   # all of it\n        id: 2   # the id\n",
            'expect:\n      input:   # all of it\n        id: "1"   # the id\n        total: 5\n',
        ),
        (
            "expect:\n      outcome: executed\n      detail: |\n        text\n      # end",
            (
                "expect:\n      outcome: executed\n      route: start\n      command: schedule\n"
                "      orchestration: order_saga\n      instance_id: order-1\n"
                '      input: {id: "1", total: 5}\n      # end'
            ),
        ),
        # Members keep their order, others follow in that of the alphabet: maps of CEL have none
        ("expect: {input: {z: 1, total: 4, id: 5}}", 'expect: {input: {total: 5, id: "1"}}'),
        ("expect: {input: {z: 1}}", 'expect: {input: {id: "1", total: 5}}'),
        ("expect: {commands: [{command: cancel}, {route: b}]}", None),
        ("expect: {dead_letter: no_route}", None),
        ("expect:\n      {\n        # one\n        route: large, # two\n        instance_id: order-1\n      }", None),
        ("expect: {routes: [], commands: []}", None),
    ],
)
def test_texts(before: str, after: str | None, project: Path) -> None:
    head = (
        "# tests\nsource: orders\ntests:\n  - name: a\n    message: {type: order.created, data: {id: '1', total: 5}}\n"
    )
    tail = "\n\n  - name: b   # stays\n    message: {type: x}\n    expect: {dead_letter: no_route}\n"
    result, text = run(f"{head}    {before}{tail}")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("UPDATED tests/rules.yaml:4 a\n2 passed")
    if after is not None:
        assert text.rstrip() == f"{head}    {after}{tail}".rstrip()
    assert [line for line in text.splitlines() if line.strip() == "# one"] or "# one" not in before
    assert CliRunner().invoke(root, ["test"]).exit_code == 0


def test_line_ends_stay(project: Path) -> None:
    _, text = run("source: orders\r\ntests:\r\n- name: a\r\n  message: {type: x}\r\n  expect: {outcome: ignored}\r\n")
    assert text.replace("\r\n", "") == text.replace("\n", "").replace("\r", "")
    assert "dead_letter: no_route" in text or "outcome: dead_lettered" in text


STEPS = """
source: orders
tests:
  - name: a
    steps:
      - message: {type: order.created, id: a, data: {id: "1", total: 5}}
        expect: {outcome: ignored, instances: {order-1: {status: COMPLETED}, order-2: {output: 1}}}   # one
      - message: {type: order.created, id: a, data: {id: "1", total: 5}}
        expect: {outcome: executed}
      - finish: {instance_id: order-1, output: [1, 2, 3]}
        expect: {instances: {order-1: {output: [1, 3], status: RUNNING}}, published: {}}
"""


def test_steps(project: Path) -> None:
    result, text = run(STEPS)
    assert result.exit_code == 0, result.output
    assert "{outcome: executed, instances: {order-1: {status: RUNNING}, order-2: {status: MISSING}}}   # one" in text
    assert "expect: {outcome: duplicate}" in text
    assert "order-1: {output: [1, 2, 3], status: COMPLETED}" in text


def test_a_step_that_fails_stays(project: Path) -> None:
    given = "source: orders\ntests:\n- {name: a, steps: [{finish: {instance_id: none}}]}\n"
    result, text = run(given)
    assert (result.exit_code, text) == (1, given)
    assert "FAIL tests/rules.yaml:3 a" in result.stdout


def test_an_anchor_that_others_use_stays(project: Path) -> None:
    given = (
        "source: orders\ntests:\n- {name: a, message: {type: x}, expect: &e {dead_letter: no_route}}\n"
        "- {name: b, message: {type: order.created, data: {id: '1', total: 5}}, expect: *e}\n"
    )
    result, text = run(given)
    assert (result.exit_code, text) == (1, given)
    assert "FAIL tests/rules.yaml:4 b" in result.stdout


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    file = tmp_path_factory.mktemp("config") / "bridge.yaml"
    file.write_text(CONFIG)
    return load([file], environ={})


MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "route": st.sampled_from(["large", "start"]),
    "routes": st.lists(st.sampled_from(["start", "cancel"]), max_size=2),
    "outcome": st.sampled_from(["executed", "ignored", "dead_lettered"]),
    "detail": st.sampled_from(["total", "nothing"]),
    "instance_id": st.sampled_from(["order-1", "x"]),
    "command": st.sampled_from(["schedule", "cancel"]),
    "input": st.recursive(
        st.none() | st.integers(0, 9) | st.sampled_from(["a", "1"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "total", "x"]), inner),
        max_leaves=4,
    ),
    "reason": st.sampled_from(["late", "x"]),
    "delay": st.sampled_from(["1h", "5m"]),
}
BODIES = st.fixed_dictionaries(
    {"type": st.sampled_from(["order.created", "order.cancelled", "other"])},
    optional={
        "data": st.fixed_dictionaries(
            {}, optional={"id": st.just("1"), "total": st.sampled_from([5, 5000]), "reason": st.just("late")}
        )
    },
)


@given(
    tests=st.lists(st.tuples(BODIES, st.fixed_dictionaries({}, optional=MEMBERS).filter(bool)), min_size=1, max_size=3),
    is_flow=st.booleans(),
)
def test_any_expectation(loaded: Loaded, tests: list[tuple[Any, dict[str, Any]]], is_flow: bool) -> None:
    """After an update the tests pass, and the comments and the messages are as before."""
    document = {
        "source": "orders",
        "tests": [
            {"name": f"t{at}", "message": message, "expect": expect} for at, (message, expect) in enumerate(tests)
        ],
    }
    text = yaml.safe_dump(document, default_flow_style=is_flow, sort_keys=False, width=10_000)
    lines = text.splitlines() if not is_flow else [text.strip()]
    file = loaded.base / "updated.yaml"
    file.write_text("".join(f"{line}  # comment {at}\n" for at, line in enumerate(lines)))
    runner = FixtureRunner(loaded)
    results = update(runner, loaded.config, list(runner.run(read_fixtures([file], loaded.config))))
    assert [result.lines() for result in results] == [[]] * len(tests)
    after = yaml.safe_load(file.read_text())
    assert [test["message"] for test in after["tests"]] == [message for message, _ in tests]
    assert all(file.read_text().count(f"# comment {at}\n") == 1 for at in range(len(lines)))
