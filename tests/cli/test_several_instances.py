"""Commands on several instances, filters of lists, counts, and failures from the inside out."""

from __future__ import annotations

import json
import re
from uuid import uuid4

import pytest

from tests.app.project import EngineThread
from tests.cli.conftest import Bridge
from tests.kit.waiting import TIMEOUT_OPTION

pytestmark = pytest.mark.usefixtures("host")

SAGA = {"format": 1, "definition": {"name": "checkout", "steps": []}, "input": {"card": "4111"}}


@pytest.fixture
def name() -> str:
    """Prefix of ids that no other test uses."""
    return f"s-{uuid4().hex[:8]}"


def start(bridge: Bridge, orchestration: str, *ids: str, data: object = None, tag: str = "by=test") -> None:
    for each in ids:
        given = ("--input", json.dumps(data)) if data is not None else ()
        result = bridge("instances", "start", orchestration, "--id", each, "--tag", tag, *given)
        assert result.exit_code == 0, result.output


def test_several_ids_and_standard_input(bridge: Bridge, name: str) -> None:
    ids = [f"{name}-{number}" for number in range(3)]
    start(bridge, "greet", *ids, data="x")
    result = bridge("instances", "wait", *ids, "--timeout", TIMEOUT_OPTION, "--json")
    assert result.exit_code == 0
    assert [one["output"] for one in json.loads(result.stdout)] == ["hello x"] * 3
    lines = "".join(f"{each}\n" for each in ids)
    shown = bridge("instances", "show", "-", input=lines).stdout
    assert re.findall(r"^instance +(.+)$", shown, re.MULTILINE) == ids
    again = bridge("instances", "restart", "-", ids[0], input=lines)
    assert again.stdout.splitlines() == ids, "each once"
    assert bridge("instances", "wait", *ids, "--timeout", TIMEOUT_OPTION).exit_code == 0
    separated = "".join(f"{each}\0" for each in ids)
    assert bridge("instances", "purge", "-", "-0", input=separated).stdout == "3 instances purged\n"
    empty = bridge("instances", "terminate", "-", input="\n")
    assert (empty.exit_code, "standard input has no id" in empty.stderr) == (2, True)


@pytest.mark.parametrize(
    ("command", "done"),
    [("suspend", "suspended"), ("resume", "resumed"), ("terminate", "termination requested")],
)
def test_one_of_several_fails(bridge: Bridge, name: str, command: str, done: str) -> None:
    start(bridge, "waits", f"{name}-0", f"{name}-1")
    if command == "resume":
        bridge("instances", "suspend", f"{name}-0", f"{name}-1")
    result = bridge("instances", command, f"{name}-0", f"{name}-missing", f"{name}-1")
    assert result.stdout.splitlines() == [f"{name}-0: {done}", f"{name}-1: {done}"]
    assert result.exit_code == 1
    [error] = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert f"{name}-missing" in error


def test_show_wait_rewind_and_purge_report_each_failure(bridge: Bridge, name: str) -> None:
    start(bridge, "greet", f"{name}-0", f"{name}-1")
    assert bridge("instances", "wait", f"{name}-0", f"{name}-1", "--timeout", TIMEOUT_OPTION).exit_code == 0
    ids = (f"{name}-0", f"{name}-missing", f"{name}-1")
    for command, output in (("show", f"instance  {name}-1"), ("wait", f"instance  {name}-1")):
        result = bridge("instances", command, *ids)
        assert (result.exit_code, output in result.stdout, f"{name}-missing" in result.stderr) == (1, True, True)
    listed = bridge("instances", "show", *ids, "--json")
    assert [one["instance_id"] for one in json.loads(listed.stdout)] == [f"{name}-0", f"{name}-1"]
    rewound = bridge("instances", "rewind", *ids)
    assert (rewound.exit_code, rewound.stdout, len(rewound.stderr.splitlines())) == (1, "", 3)
    purged = bridge("instances", "purge", *ids)
    assert (purged.exit_code, purged.stdout, len(purged.stderr.splitlines())) == (1, "2 instances purged\n", 1)


def test_a_wait_for_several_has_one_timeout(bridge: Bridge, name: str) -> None:
    start(bridge, "waits", f"{name}-0", f"{name}-1")
    result = bridge("instances", "wait", f"{name}-0", f"{name}-1", "--timeout", "200ms")
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.stderr.splitlines()] == [f"{name}-0", f"{name}-1"]


def test_filters(bridge: Bridge, name: str) -> None:
    start(bridge, "journey", f"{name}-trip", tag="country=de")
    start(bridge, "greet", f"{name}-greet", data="x", tag="country=de")
    start(bridge, "greet", f"{name}-other", data="x", tag="country=fr")
    start(bridge, "bridge.saga", f"{name}-saga", data=SAGA)
    bridge("instances", "wait", f"{name}-trip", f"{name}-greet", f"{name}-other", "--timeout", TIMEOUT_OPTION)

    def ids(*options: str) -> set[str]:
        listed = bridge("instances", "list", "--prefix", name, "--ids", *options)
        assert listed.exit_code == 0, listed.output
        return {each.removeprefix(f"{name}-") for each in listed.stdout.splitlines()}

    assert ids("--outcome", "compensated") == {"trip"}
    assert ids("--outcome", "failed") == set()
    assert ids("--outcome", "failed", "--outcome", "compensated") == {"trip"}
    assert ids("--tag", "country=de") == {"trip", "greet"}
    assert ids("--tag", "country=de", "--name", "greet") == {"greet"}
    assert ids("--name", "checkout") == {"saga"}
    assert ids("--newer", "1h") == {"trip", "greet", "other", "saga"}
    assert ids("--older", "1h") == set()
    table = bridge("instances", "list", "--prefix", name).stdout
    assert re.search(rf"{name}-saga +checkout +PENDING", table)
    assert re.search(rf"{name}-trip +journey +COMPLETED +compensated", table)
    [one] = json.loads(bridge("instances", "list", "--prefix", f"{name}-trip", "--json").stdout)
    assert (one["name"], one["saga"], one["outcome"]) == ("journey", "trip", "compensated")


def test_counts_need_no_scan(bridge: Bridge, name: str, host: EngineThread, monkeypatch: pytest.MonkeyPatch) -> None:
    start(bridge, "journey", f"{name}-trip")
    start(bridge, "bridge.saga", f"{name}-saga", data=SAGA)
    bridge("instances", "wait", f"{name}-trip", "--timeout", TIMEOUT_OPTION)
    scanned = json.loads(bridge("instances", "list", "--count", "--json", "--prefix", name).stdout)
    assert scanned == [
        {"name": "checkout", "status": "PENDING", "count": 1}, {"name": "journey", "status": "COMPLETED", "count": 1},
    ]  # fmt: skip
    every = json.loads(bridge("instances", "list", "--limit", "0", "--json").stdout)
    monkeypatch.setattr("bridge.engines.client.EngineClient.get_all_orchestration_states", None)
    counted = json.loads(bridge("instances", "list", "--count", "--json").stdout)
    assert sum(one["count"] for one in counted) == len(every)
    [checkouts] = json.loads(bridge("instances", "list", "--count", "--name", "checkout", "--json").stdout)
    assert checkouts["count"] == sum(one["saga"] == "checkout" for one in every)
    outcomes = bridge("instances", "list", "--count", "--outcome", "compensated").stdout.splitlines()
    compensated = sum(one["outcome"] == "compensated" for one in every)
    assert [line.split() for line in outcomes] == [
        ["NAME", "OUTCOME", "COUNT"],
        ["trip", "compensated", f"{compensated}"],
    ]


def test_a_failed_activity_shows_the_own_frame_first(bridge: Bridge, name: str) -> None:
    for orchestration in ("breaks", "household", "journey"):
        start(bridge, orchestration, f"{name}-{orchestration}")
        bridge("instances", "wait", f"{name}-{orchestration}", "--timeout", TIMEOUT_OPTION)
        lines = bridge("instances", "show", f"{name}-{orchestration}").stdout.splitlines()
        [failure] = [line.split(maxsplit=1)[1] for line in lines if line.startswith("failure ")]
        assert re.fullmatch(
            r".*commanded_flows\.py:\d+ fragile: builtins\.ConnectionError: the carrier does not answer", failure
        )
        traced = [line for line in lines if line.startswith("    File ")]
        own = [number for number, line in enumerate(traced) if "commanded_flows" in line]
        assert own == list(range(len(own)))
        assert "in fragile" in traced[0]
        assert lines.index("  in the bridge and the SDK:") > lines.index(traced[own[-1]])
    shown = json.loads(bridge("instances", "show", f"{name}-household", "--json").stdout)
    assert shown["cause"]["instance_id"] == f"{name}-household-child"
    assert shown["cause"]["type"] == "builtins.ConnectionError"
    assert shown["cause"]["at"].endswith(" fragile")
    assert shown["failure"]["type"].endswith("TaskFailedError")
