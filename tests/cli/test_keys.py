"""`bridge keys` on a running daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from tests.kit.processes import DaemonProcess

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
ops: {http: {port: 0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    with DaemonProcess(tmp_path):
        yield tmp_path / "bridge.yaml"


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(root, ["keys", *arguments, "-c", str(config)])


def test_keys_are_listed_rotated_and_retired(config: Path) -> None:
    assert run(config, "list").output == "no keys: no request has been sent yet\n"
    first = run(config, "rotate").output.split()[1]
    second = run(config, "rotate").output.split()[1]
    listed = json.loads(run(config, "list", "--json").output)
    assert [(each["id"], each["signs"]) for each in listed] == [(second, False), (first, True)]
    assert "secret" not in run(config, "list", "--json").output
    assert run(config, "list").output.splitlines()[0].split() == ["KEY", "MADE", "SIGNS"]
    refused = run(config, "retire", first)
    assert refused.exit_code == 1
    assert "signs requests" in refused.stderr
    assert run(config, "retire", second).exit_code == 0
    unknown = run(config, "retire", second)
    assert (unknown.exit_code, "there is no key" in unknown.stderr) == (1, True)
    assert [each["id"] for each in json.loads(run(config, "list", "--json").output)] == [first]


def test_there_are_not_more_keys_than_an_answer_can_be_checked_with(config: Path) -> None:
    for _ in range(8):
        assert run(config, "rotate").exit_code == 0
    refused = run(config, "rotate")
    assert (refused.exit_code, "retire an old one first" in refused.stderr) == (1, True)
