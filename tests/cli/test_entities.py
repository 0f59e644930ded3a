"""`bridge entities` on a running engine."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.cli.conftest import Bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.usefixtures("host")


def reaches(bridge: Bridge, key: str, state: int, entity: str = "counter") -> None:
    def has_it() -> bool:
        result = bridge("entities", "show", f"{entity}@{key}", "--json")
        return result.exit_code == 0 and json.loads(result.stdout)["state"] == state

    eventually_blocking(has_it, f"{entity}@{key} is {state}")


def test_signal_show_and_list(bridge: Bridge) -> None:
    key = uuid4().hex
    result = bridge("entities", "signal", f"counter@{key}", "add", "--input", "2")
    assert (result.exit_code, result.stdout) == (0, f"counter@{key}: add signalled\n")
    bridge("entities", "signal", f"@counter@{key}", "add", "--input", "3", "--delay", "10ms")
    reaches(bridge, key, 5)

    lines = bridge("entities", "show", f"counter@{key}").stdout.splitlines()
    assert f"entity    counter@{key}" in lines
    assert "state     5" in lines
    table = bridge("entities", "list", "counter", "--key-prefix", key).stdout.splitlines()
    assert table[0].split() == ["ENTITY", "MODIFIED", "BACKLOG", "LOCKED", "BY", "STATE"]
    assert table[1].split()[0] == f"counter@{key}"
    [one] = json.loads(bridge("entities", "list", "counter", "--key-prefix", key, "--json").stdout)
    assert (one["entity"], one["key"], one["state"]) == ("counter", key, 5)
    [one] = json.loads(bridge("entities", "list", "counter", "--key-prefix", key, "--json", "--no-state").stdout)
    assert one["state"] is None
    assert key in bridge("entities", "list", "--modified-from", "1h").stdout
    assert key not in bridge("entities", "list", "--modified-to", "1h").stdout


def test_an_entity_runs_a_message_once(bridge: Bridge) -> None:
    key = uuid4().hex
    signal = ("entities", "signal", f"stock@{key}", "receive", "--input", "2")
    for _ in range(2):
        received = json.loads(bridge(*signal, "--message-id", "delivery-17", "--json").stdout)
        assert received == {"entity": "stock", "key": key, "operation": "receive", "message_id": "delivery-17"}
    assert json.loads(bridge(*signal, "--json").stdout)["message_id"] != "delivery-17"
    bridge(*signal, "--bare")
    reaches(bridge, key, 6, "stock")


def test_nothing_found(bridge: Bridge) -> None:
    result = bridge("entities", "list", "nobody")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no entities\n")
    result = bridge("entities", "show", "counter@nobody")
    assert (result.exit_code, result.stderr) == (1, "error: no entity counter@nobody exists\n")


def test_clean(bridge: Bridge) -> None:
    result = bridge("entities", "clean")
    assert result.exit_code == 0
    assert "removed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "counter"), "NAME@KEY"),
        (("show", "counter@"), "NAME@KEY"),
        (("list", "--key-prefix", "k"), "needs NAME"),
        (("signal", "counter@1", "add", "--at", "2030-01-01T00:00:00Z", "--delay", "1s"), "use either --at or --delay"),
        (("signal", "counter@1", "add", "--at", "2h"), "RFC 3339"),
    ],
)
def test_mistakes(bridge: Bridge, arguments: tuple[str, ...], said: str) -> None:
    result = bridge("entities", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
