"""`bridge instances` on a running engine: every command, its output and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from bridge.cli import root
from tests.app.project import write_project
from tests.cli.conftest import Bridge
from tests.kit.forkserver import fork_server
from tests.kit.waiting import TIMEOUT, TIMEOUT_OPTION

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def name() -> str:
    """Instance id that no other test uses."""
    return f"c-{uuid4().hex[:8]}"


def started(bridge: Bridge, orchestration: str, name: str, *options: str) -> str:
    result = bridge("instances", "start", orchestration, "--id", name, *options)
    assert (result.exit_code, result.stdout) == (0, f"{name}\n"), result.output
    return name


def finished(bridge: Bridge, name: str, code: int = 0) -> None:
    assert bridge("instances", "wait", name, "--timeout", TIMEOUT_OPTION).exit_code == code


def shown(bridge: Bridge, name: str, *options: str) -> dict[str, object]:
    result = bridge("instances", "show", name, "--json", *options)
    assert result.exit_code == 0
    received = json.loads(result.stdout)
    assert isinstance(received, dict)
    return received


def test_start_wait_show(bridge: Bridge, name: str) -> None:
    started(bridge, "greet", name, "--input", '"ada"', "--tag", "by=test", "--version", "1.0")
    result = bridge("instances", "wait", name, "--timeout", TIMEOUT_OPTION, "--json")
    assert (result.exit_code, json.loads(result.stdout)["output"]) == (0, "hello ada")
    received = shown(bridge, name)
    assert list(received) == [
        "instance_id", "name", "status", "created_at", "last_updated_at", "input", "output", "custom_status", "failure",
        "saga", "outcome", "cause",
    ]  # fmt: skip
    assert (received["name"], received["status"], received["input"]) == ("greet", "COMPLETED", "ada")
    lines = bridge("instances", "show", name).stdout.splitlines()
    assert f"instance  {name}" in lines
    assert 'output    "hello ada"' in lines


def test_inputs_come_from_files_and_standard_input(bridge: Bridge, name: str, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"big": 1180591620717411303424}')
    started(bridge, "greet", name, "--input", f"@{tmp_path}/input.json")
    result = bridge("instances", "start", "greet", "--id", f"{name}-2", "--input", "@-", input='"from a pipe"')
    assert result.exit_code == 0
    assert shown(bridge, name)["input"] == {"big": 1180591620717411303424}
    assert shown(bridge, f"{name}-2")["input"] == "from a pipe"


def test_an_id_can_only_be_started_once(bridge: Bridge, name: str) -> None:
    started(bridge, "greet", name)
    result = bridge("instances", "start", "greet", "--id", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_list(bridge: Bridge, name: str) -> None:
    for number in range(3):
        started(bridge, "greet", f"{name}-{number}", "--input", '"x"')
        finished(bridge, f"{name}-{number}")
    started(bridge, "waits", f"{name}-w")
    select = ("instances", "list", "--prefix", name)

    table = bridge(*select).stdout.splitlines()
    assert table[0].split() == ["INSTANCE", "NAME", "STATUS", "OUTCOME", "CREATED", "UPDATED", "CUSTOM", "STATUS"]
    assert [row.split()[0] for row in table[1:]] == [f"{name}-{end}" for end in "w210"]
    assert "\x1b" not in "".join(table)

    received = json.loads(bridge(*select, "--json", "--status", "completed").stdout)
    assert [(one["instance_id"], one["output"]) for one in received] == [(f"{name}-{end}", "hello x") for end in "210"]

    result = bridge(*select, "--ids", "--limit", "2")
    assert result.stdout.splitlines() == [f"{name}-w", f"{name}-2"]
    assert "the newest 2 of 4; --limit 0 shows all" in result.stderr
    assert len(bridge(*select, "--ids", "--limit", "0").stdout.splitlines()) == 4
    assert len(bridge(*select, "--ids", "--completed-from", "1h").stdout.splitlines()) == 3
    assert bridge(*select, "--ids", "--created-from", "2999-01-01T00:00:00Z").stdout == ""
    nothing = bridge("instances", "list", "--prefix", "nobody-")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no instances\n")
    assert bridge("instances", "list", "--prefix", "nobody-", "--json").stdout == "[]\n"


def test_rows_are_one_line_however_long(bridge: Bridge, name: str) -> None:
    long = name + "x" * 200
    started(bridge, "greet", long)
    [row] = bridge("instances", "list", "--prefix", name).stdout.splitlines()[1:]
    assert row.startswith(long)


def test_raise(bridge: Bridge, name: str) -> None:
    started(bridge, "waits", name)
    assert bridge("instances", "wait", name, "--for", "start", "--timeout", TIMEOUT_OPTION).exit_code == 0
    result = bridge("instances", "raise", name, "go", "--data", '{"how": "fast"}')
    assert (result.exit_code, result.stdout) == (0, f"{name}: go raised\n")
    finished(bridge, name)
    assert shown(bridge, name)["output"] == {"how": "fast"}
    assert bridge("instances", "raise", name, "go").exit_code == 1


def test_a_message_id_starts_once(bridge: Bridge, name: str) -> None:
    command = ("instances", "start", "waits", "--id", name, "--message-id", "nightly")
    first, second = (bridge(*command, "--json") for _ in range(2))
    received = {"instance_id": name, "message_id": "nightly", "repeated": False}
    assert (first.exit_code, json.loads(first.stdout)) == (0, received)
    assert (second.exit_code, json.loads(second.stdout)) == (0, received | {"repeated": True})
    third = bridge(*command)
    assert (third.stdout, third.stderr) == (f"{name}\n", "this message started the instance before\n")
    other = bridge("instances", "start", "waits", "--id", name, "--message-id", "another")
    assert (other.exit_code, other.stdout) == (1, "")


def test_a_message_id_gives_an_instance_id(bridge: Bridge, name: str) -> None:
    ids = {bridge("instances", "start", "waits", "--message-id", name).stdout for _ in range(2)}
    assert len(ids) == 1
    assert ids != {bridge("instances", "start", "waits", "--message-id", name + "x").stdout}


def test_an_inbox_drops_a_repeated_event(bridge: Bridge, name: str) -> None:
    started(bridge, "collects", name, "--input", "3")
    for data, options in (("1", ["--message-id", "a"]), ("1", ["--message-id", "a"]), ("2", []), ("2", [])):
        assert bridge("instances", "raise", name, "item", "--data", data, *options).exit_code == 0
    finished(bridge, name)
    assert shown(bridge, name)["output"] == [1, 2, 2]
    again = bridge("instances", "raise", name, "item", "--data", "1", "--message-id", "a", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (
        0,
        {"instance_id": name, "event": "item", "message_id": "a", "repeated": True},
    )


def test_a_trace_knows_who_gave_the_command(bridge: Bridge, name: str) -> None:
    begun = json.loads(bridge("instances", "start", "waits", "--id", name, "--json").stdout)["message_id"]
    raised = json.loads(bridge("instances", "raise", name, "go", "--json").stdout)["message_id"]
    finished(bridge, name)
    for wanted in (begun, raised):
        [found] = json.loads(bridge("trace", wanted, "--prefix", name, "--json").stdout)["instances"]
        assert [(one["message_id"], one["route"]) for one in found["arrivals"]] == [
            (begun, "bridge instances start"),
            (raised, "bridge instances raise"),
        ]


def test_bare_data(bridge: Bridge, name: str) -> None:
    command = ("instances", "start", "waits", "--id", name, "--bare")
    assert json.loads(bridge(*command, "--json").stdout)["message_id"] is None
    assert bridge(*command).exit_code == 1
    assert bridge("instances", "raise", name, "go", "--data", "5", "--bare").exit_code == 0
    finished(bridge, name)
    [found] = json.loads(bridge("trace", name, "--json").stdout)["instances"]
    assert [one["message_id"] for one in found["arrivals"]] == [None, None]


@pytest.mark.parametrize("options", [("--message-id", ""), ("--message-id", "a", "--bare")])
def test_message_ids_that_make_no_sense(bridge: Bridge, name: str, options: tuple[str, ...]) -> None:
    assert bridge("instances", "start", "waits", "--id", name, *options).exit_code == 2


def test_a_wait_that_is_too_short(bridge: Bridge, name: str) -> None:
    started(bridge, "waits", name)
    result = bridge("instances", "wait", name, "--timeout", "50ms")
    assert (result.exit_code, result.stderr) == (1, f"error: {name} has not finished after 0.05s\n")


def test_suspend_and_resume(bridge: Bridge, name: str) -> None:
    started(bridge, "waits", name)
    assert bridge("instances", "suspend", name, "--reason", "thinking").stdout == f"{name}: suspended\n"
    assert bridge("instances", "resume", name).stdout == f"{name}: resumed\n"
    bridge("instances", "raise", name, "go")
    finished(bridge, name)


def test_terminate(bridge: Bridge, name: str) -> None:
    started(bridge, "waits", name)
    assert bridge("instances", "terminate", name, "--output", '{"why": "fraud"}').exit_code == 0
    finished(bridge, name, code=1)
    received = shown(bridge, name)
    assert (received["status"], received["output"]) == ("TERMINATED", {"why": "fraud"})


def test_failure_and_rewind(bridge: Bridge, name: str) -> None:
    started(bridge, "breaks", name)
    finished(bridge, name, code=1)
    received = bridge("instances", "show", name).stdout
    assert "the carrier does not answer" in received
    assert "in breaks" in received
    repaired: Path = sys.modules["commanded_flows"].REPAIRED
    repaired.touch()
    try:
        assert bridge("instances", "rewind", name, "--reason", "repaired").exit_code == 0
        finished(bridge, name)
    finally:
        repaired.unlink()


def test_restart(bridge: Bridge, name: str) -> None:
    started(bridge, "greet", name)
    finished(bridge, name)
    assert bridge("instances", "restart", name).stdout == f"{name}\n"
    finished(bridge, name)
    other = bridge("instances", "restart", name, "--new-id").stdout.strip()
    assert other not in ("", name)


def test_history(bridge: Bridge, name: str) -> None:
    started(bridge, "family", name)
    finished(bridge, name)
    lines = bridge("instances", "show", name, "--history").stdout.splitlines()
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["TIME", "AFTER", "EVENT", "DATA"]
    assert "started family" in table[1]
    assert "completed" in table[-1]
    assert '"hello child"' in table[-1]
    history = shown(bridge, name, "--history")["history"]
    assert isinstance(history, list)
    assert {"event", "timestamp"} <= set(history[0])


def test_a_picture_of_the_timeline(bridge: Bridge, name: str) -> None:
    started(bridge, "family", name)
    finished(bridge, name)
    picture = ET.fromstring(bridge("instances", "show", name, "--svg").stdout)
    texts = [element.text for element in picture.iter() if element.tag.endswith("}text")]
    assert {"family", "greet", "timer"} <= {*texts}
    for wrong in (("--json",), ("--history",), ("another",)):
        assert bridge("instances", "show", name, "--svg", *wrong).exit_code == 2
    assert "none" in bridge("instances", "show", "none", "--svg").stderr


def test_purge_ids(bridge: Bridge, name: str) -> None:
    for number in range(2):
        started(bridge, "greet", f"{name}-{number}")
        finished(bridge, f"{name}-{number}")
    assert bridge("instances", "purge", f"{name}-0", f"{name}-1").stdout == "2 instances purged\n"
    assert bridge("instances", "show", f"{name}-0").exit_code == 1


def test_a_bulk_purge_asks_first(bridge: Bridge, name: str) -> None:
    started(bridge, "waits", name)
    bridge("instances", "terminate", name)
    finished(bridge, name, code=1)
    refused = bridge("instances", "purge", "--status", "terminated")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert shown(bridge, name)["status"] == "TERMINATED"
    done = bridge("instances", "purge", "--status", "terminated", "--created-from", "1h", "--yes")
    assert done.exit_code == 0
    assert done.stdout.endswith("purged\n")
    assert bridge("instances", "show", name).exit_code == 1


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_a_person_is_asked_before_a_bulk_purge(
    bridge: Bridge, name: str, project: Path, answer: bytes, code: int
) -> None:
    started(bridge, "waits", name)
    bridge("instances", "terminate", name)
    finished(bridge, name, code=1)
    command = [
        str(fork_server().command() / "bridge"),
        "instances",
        "purge",
        "--status",
        "terminated",
        "-c",
        "bridge.yaml",
    ]
    primary, secondary = pty.openpty()
    with subprocess.Popen(command, stdin=secondary, stderr=subprocess.PIPE, cwd=project) as process:
        os.write(primary, answer)
        _, errors = process.communicate(timeout=TIMEOUT)
    os.close(primary)
    os.close(secondary)
    assert process.returncode == code
    assert re.search(rb"Remove \d+ instances? permanently\? \[y/N\]", errors)
    assert bridge("instances", "show", name).exit_code == 1 - code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("purge",), "name instances, or use a filter"),
        (("purge", "x", "--status", "failed"), "name instances, or use a filter"),
        (("purge", "--status", "running", "--yes"), "only finished instances"),
        (("list", "--status", "done"), "'done' is not one of pending, running"),
        (("list", "--created-from", "yesterday"), "RFC 3339"),
        (("start", "greet", "--input", "{broken"), "not JSON (line 1 column 2)"),
        (("start", "greet", "--input", "@/nowhere.json"), "/nowhere.json: No such file"),
        (("start", "greet", "--at", "2030-01-01T00:00:00Z", "--delay", "1s"), "use either --at or --delay"),
        (("start", "greet", "--delay", "soon"), "'soon' is not a duration"),
        (("start", "greet", "--tag", "novalue"), "NAME=VALUE"),
        (("wait", "x", "--timeout", "5"), "'5' is not a duration"),
        (("list", "--engine", "eu"), "there is no engine 'eu' (known: default)"),
    ],
)
def test_mistakes(bridge: Bridge, arguments: tuple[str, ...], said: str) -> None:
    result = bridge("instances", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("command", ["show", "wait", "terminate", "suspend", "resume", "restart", "rewind", "purge"])
def test_unknown_instances(bridge: Bridge, command: str) -> None:
    result = bridge("instances", command, "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "nobody" in result.stderr


def test_ids_of_entities_are_refused(bridge: Bridge) -> None:
    result = bridge("instances", "start", "greet", "--id", "@counter@1")
    assert result.exit_code == 1
    assert "kept for entities" in result.stderr


def test_an_engine_that_is_not_running(tmp_path: Path) -> None:
    config = write_project(tmp_path / "idle")
    result = CliRunner().invoke(root, ["instances", "list", "-c", str(config)])
    assert (result.exit_code, result.stdout) == (3, "")
    assert "bridge serve" in result.stderr
    assert result.stderr.count("\n") == 1


HOSTILE = (
    "c-hostile \x1b[2J\x07",
    "c-hostile\nsecond",
    "c-hostile 'quoted\" $(x)",
    "c-hostile \x9b31m\u202egnp.exe",
    "c-hostile \x7f",
)


def _start_hostile(project: Path) -> None:
    """Start instances with hostile ids, as any client of the engine may; the bridge's commands and rules refuse such
    ids."""
    from bridge.app.composition import load_config
    from bridge.app.connection import attached

    async def start() -> None:
        async with attached(load_config([project / "bridge.yaml"]), None) as engine:
            for each in HOSTILE:
                await engine.client.schedule_new_orchestration("greet", input=each, instance_id=each)

    asyncio.run(start())


def test_ids_of_strangers_drive_no_terminal(bridge: Bridge, project: Path) -> None:
    """Tables, lists, JSON and errors escape the ids; every id can be passed to another command."""
    _start_hostile(project)
    select = ("instances", "list", "--prefix", "c-hostile", "--limit", "0")
    for options in ((), ("--ids",), ("--json",)):
        result = bridge(*select, *options)
        assert result.exit_code == 0
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stdout), options
    assert {row["instance_id"] for row in json.loads(bridge(*select, "--json").stdout)} == set(HOSTILE)
    assert len(bridge(*select, "--ids").stdout.splitlines()) == len(HOSTILE)
    separated = bridge(*select, "-0").stdout_bytes
    assert set(separated.decode().split("\0")) == {*HOSTILE, ""}
    for each in HOSTILE:
        for command in (("show", each), ("show", each, "--json"), ("wait", each), ("terminate", each)):
            result = bridge("instances", *command)
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output), command
    show = [str(fork_server().command() / "bridge"), "instances", "show", "-c", str(project / "bridge.yaml"), "--json"]
    done = subprocess.run(["xargs", "-0", "-n1", *show], input=separated, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b'"instance_id"') == len(HOSTILE)


def test_forms_of_a_list_exclude_each_other(bridge: Bridge) -> None:
    assert bridge("instances", "list", "-0", "--json").exit_code == 2
