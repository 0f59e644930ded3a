"""`bridge test --record`: tests of recorded messages, masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.messages.jsonlines import line_of
from bridge.cli import root
from bridge.config.source import Loaded, load
from bridge.core.message import Message, Position
from bridge.testing.fixtures.document import read_fixtures
from bridge.testing.fixtures.record import record
from bridge.testing.fixtures.runner import FixtureRunner
from tests.testing.test_fixtures import CONFIG


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def event(number: int, data: Any, **more: Any) -> bytes:
    body = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "order.created", "data": data, **more}
    message = Message(json.dumps(body).encode(), b"k", (("content-type", b"application/cloudevents+json"),), 5.0)
    return line_of(Position("c", "orders", 2, number), message).encode() + b"\n"


def run(lines: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(root, ["test", "--record", "new.yaml", *arguments], input=lines)


def test_recorded_messages_pass(project: Path) -> None:
    lines = event(1, {"id": "a", "total": 1}) + b"\n" + event(2, {"id": "b", "total": 2000}) + event(3, {})
    result = run(lines)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "new.yaml: 3 tests. Check that they are what you expect\n"
    tests = yaml.safe_load(Path("new.yaml").read_text())["tests"]
    assert [test["name"] for test in tests] == [
        "orders/2/1: start", "orders/2/2: large", "orders/2/3: expression_error",
    ]  # fmt: skip
    assert tests[1]["expect"] == {
        "route": "large", "command": "schedule", "orchestration": "order_saga", "instance_id": "order-b",
        "input": {"id": "b"}, "delay": "1h",
    }  # fmt: skip
    passed = CliRunner().invoke(root, ["test", "new.yaml"])
    assert passed.stdout.startswith("3 passed")


def test_masks(project: Path) -> None:
    people = [
        {"name": "Ada Byron", "age": 36, "friends": [{"name": "Bob Smith"}, {"name": "Ada Byron"}]},
        {"name": None},
    ]
    lines = b"".join(event(n, {"id": "a", "total": 1, "who": who}, subject="Ada B.") for n, who in enumerate(people))
    masks = [
        "payload.who.name",
        "payload.who.friends.name",
        "payload.who.age",
        "subject",
        "key",
        "headers.content-type",
    ]
    result = run(lines, *(word for mask in masks for word in ("--mask", mask)))
    assert result.exit_code == 0, result.output
    text = Path("new.yaml").read_text()
    assert not [word for word in ("Ada", "Bob", "36") if word in text]
    body = yaml.safe_load(text)["tests"][0]["message"]["body"]
    who = body["data"]["who"]
    assert who["name"] == who["friends"][1]["name"] != who["friends"][0]["name"]
    assert type(who["age"]) is int
    assert CliRunner().invoke(root, ["test", "new.yaml"]).exit_code == 0


def test_a_masked_value_that_stands_elsewhere(project: Path) -> None:
    lines = event(1, {"id": "Ada Byron", "total": 1, "who": "Ada Byron"}) + event(
        2, {"id": "b", "total": 1, "who": "X"}
    )
    result = run(lines, "--mask", "payload.who")
    assert result.exit_code == 1
    assert result.stderr == "1 message left out: a masked value also stands in another member; mask that too\n"
    assert "Ada" not in Path("new.yaml").read_text()


def test_bodies_that_are_not_json(project: Path) -> None:
    lines = line_of(Position("c", "plain", 0, 0), Message(b"\xff\0")).encode()
    assert "not JSON, and cannot be masked" in run(lines, "--mask", "payload.a").stderr
    assert not Path("new.yaml").exists()
    assert run(lines).exit_code == 0
    assert yaml.safe_load(Path("new.yaml").read_text())["tests"][0]["expect"] == {"dead_letter": "decode_error"}


@pytest.mark.parametrize(
    ("lines", "arguments", "problem"),
    [
        (b"{", [], "standard input:1: the line is not"),
        (b"1", [], "standard input:1: expected a line of"),
        (b'{"body": 1}', [], "the sources orders, plain read the topic None; name the source with --source"),
        (b'{"topic": "x", "body": 1}', [], "no source reads the topic 'x'"),
        (b'{"body": 1, "b": 1}', ["--source", "plain"], "unknown member 'b'"),
        (b'{"body": {}}', ["--source", "plain", "--mask", "payload.a"], "no message has payload.a"),
        (b'{"body": {}}', ["--source", "plain", "--mask", "name"], "'name' is no mask"),
    ],
)
def test_refusals(lines: bytes, arguments: list[str], problem: str, project: Path) -> None:
    result = run(lines, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
    assert not Path("new.yaml").exists()


def test_nothing_is_overwritten(project: Path) -> None:
    Path("new.yaml").write_text("mine")
    assert "new.yaml exists" in run(event(1, {})).stderr
    assert CliRunner().invoke(root, ["test", "--mask", "key"]).exit_code == 2
    assert Path("new.yaml").read_text() == "mine"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    file = tmp_path_factory.mktemp("config") / "bridge.yaml"
    file.write_text(CONFIG)
    return load([file], environ={})


TEXTS = st.text(max_size=5) | st.sampled_from(
    ["yes", "1e5", "0x1", "~", "- a", "a: b", "#", "{{", "\x85", "\ud800", "null"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(values=st.lists(VALUES, min_size=1, max_size=3), key=st.none() | st.binary(max_size=3), kind=st.booleans())
def test_any_message(loaded: Loaded, values: list[Any], key: bytes | None, kind: bool) -> None:
    """A recorded test passes, or its message is left out."""
    lines = []
    for at, value in enumerate(values):
        body = {"kind": "stock", "lines": value} if kind else value
        message = Message(json.dumps(body).encode(), key, (("h", b"\xff"), ("h", None)))
        lines.append(line_of(Position("c", "plain", 0, at), message).encode())
    found = record(lines, loaded, None, [], "lines")
    assert found.count + found.left_out.total() == len(values)
    if found.count:
        file = loaded.base / "recorded.yaml"
        file.write_text(found.text, encoding="utf-8")
        results = list(FixtureRunner(loaded).run(read_fixtures([file], loaded.config)))
        assert [result.lines() for result in results] == [[]] * found.count
