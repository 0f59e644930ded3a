"""`bridge route`: its output, and the exit code for tests of rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import root
from tests.cli.conftest import Bridge

GREETING = json.dumps(
    {"specversion": "1.0", "id": "1", "source": "/test", "type": "greeting.asked", "data": {"name": "ada"}}
)


@pytest.fixture
def greeting(tmp_path: Path) -> str:
    file = tmp_path / "greeting.json"
    file.write_text(GREETING)
    return str(file)


def test_the_rule_every_condition_and_the_call(bridge: Bridge, greeting: str) -> None:
    result = bridge("route", "orders", "--file", greeting)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["greet", "MATCHED", "when:", "payload.name", "!=", "''", "is", "true"] in lines
    assert ["nobody", "not", "considered"] in lines
    assert ["ScheduleOrchestration", "by", "greet", "on", "engine", "default"] in lines
    assert ["instance_id", '"greet-ada"'] in lines
    assert ["input", '"ada"'] in lines
    assert result.stdout.splitlines()[-1] == "outcome: executed by greet"


def test_why_a_rule_does_not_match(bridge: Bridge) -> None:
    result = bridge("route", "orders", "--type", "greeting.asked", "--data", '{"name": ""}')
    assert "when: payload.name != '' is false" in result.stdout
    assert result.stdout.splitlines()[-1] == "outcome: ignored by nobody"
    result = bridge("route", "orders", "--type", "other", "--data", "{}")
    assert 'type is other, not "greeting.asked"' in result.stdout
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("outcome: dead-lettered (no_route): ")


def test_standard_input(bridge: Bridge) -> None:
    assert bridge("route", "orders", input=GREETING).exit_code == 0
    assert bridge("route", "orders", "--file", "-", input=GREETING).exit_code == 0


def test_a_saga_of_the_configuration_in_short() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "purchase.requested", "data": {"id": "p-1"}}
    command = ["route", "purchases", "-c", str(Path(__file__).parents[2] / "config" / "sagas.yaml")]
    lines = CliRunner().invoke(root, command, input=json.dumps(event)).stdout.splitlines()
    assert '  input          {"id": "p-1"}' in lines
    assert "  saga           purchase: (stock | payment) > point of no return > parcel" in lines
    received = json.loads(CliRunner().invoke(root, [*command, "--json"], input=json.dumps(event)).stdout)
    assert received["steps"][0]["command"]["input"]["definition"]["steps"][-1]["name"] == "parcel"


def test_json(bridge: Bridge, greeting: str) -> None:
    received = json.loads(bridge("route", "orders", "--file", greeting, "--json").stdout)
    assert received.keys() == {"source", "outcome", "routes", "steps", "rules", "reason", "detail", "envelope"}
    assert (received["outcome"], received["routes"]) == ("executed", ["greet"])
    assert received["steps"][0]["command"]["instance_id"] == "greet-ada"


def test_expectations(bridge: Bridge, greeting: str) -> None:
    assert bridge("route", "orders", "--file", greeting, "--expect", "greet").exit_code == 0
    other = bridge("route", "orders", "--file", greeting, "--expect", "nobody")
    assert (other.exit_code, other.stderr) == (1, "error: expected nobody, found greet\n")
    dead = bridge("route", "orders", "--expect", "greet", input="{broken")
    assert (dead.exit_code, dead.stderr) == (1, "error: expected greet, found a dead letter (decode_error)\n")
    alive = bridge("route", "orders", "--file", greeting, "--expect-dead-letter")
    assert (alive.exit_code, alive.stderr) == (1, "error: expected a dead letter\n")
    assert bridge("route", "orders", "--expect-dead-letter", input="{broken").exit_code == 0
    unmatched = bridge("route", "plain", "--expect", "go", input='{"kind": "other"}')
    assert (unmatched.exit_code, unmatched.stderr) == (1, "error: expected go, found no route\n")


def test_what_no_source_takes_is_a_dead_letter_here_too(bridge: Bridge) -> None:
    result = bridge("route", "orders", "--data", '{"id": 1}')
    assert result.exit_code == 1
    assert "outcome: dead-lettered (decode_error): " in result.stdout


def test_keys_and_headers(bridge: Bridge) -> None:
    result = bridge("route", "plain", "--data", '{"kind": "go", "id": 1}', "--key", "k", "--header", "a=b", "--json")
    envelope = json.loads(result.stdout)["envelope"]
    assert (envelope["key"], envelope["headers"]) == ("k", {"a": "b"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("order",), "there is no source 'order'; did you mean 'orders'?"),
        (("orders", "--expect", "greeet"), "there is no route 'greeet'; did you mean 'greet'?"),
        (("orders", "--file", "x", "--data", "y"), "use either --file or --data"),
        (("orders", "--expect", "greet", "--expect-dead-letter"), "use either --expect or --expect-dead-letter"),
        (("orders", "--header", "x"), "NAME=VALUE"),
        (("orders", "--data", "{}", "--id", "1"), "--id needs --type"),
    ],
)
def test_mistakes(bridge: Bridge, arguments: tuple[str, ...], said: str) -> None:
    result = bridge("route", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_that_is_not_there(bridge: Bridge) -> None:
    result = bridge("route", "orders", "--file", "/nowhere.json")
    assert result.exit_code == 1
    assert "/nowhere.json" in result.stderr


def test_control_characters_of_a_payload_never_reach_the_terminal(bridge: Bridge) -> None:
    result = bridge("route", "orders", "--type", "greeting.asked", "--data", '{"name": "\\u001b[31mred\\u009b"}')
    assert "\x1b" not in result.output
    assert "\x9b" not in result.output
