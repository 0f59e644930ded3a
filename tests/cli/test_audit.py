"""Audit lines: every changing command leaves exactly one, and `bridge audit` shows it."""

from __future__ import annotations

import getpass
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest

from bridge.cli import root
from bridge.cli.shared.command import BridgeCommand
from bridge.ops.trail import AuditTrail
from tests.cli.conftest import Bridge
from tests.kit.waiting import TIMEOUT_OPTION

pytestmark = pytest.mark.usefixtures("host")
MARKER = "PAYLOAD-THAT-NOBODY-MAY-READ"
DATA = json.dumps({"marker": MARKER})
ID = f"audited-{uuid4().hex[:8]}"

STEPS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("instances start", ID, "done", ("waits", "--id", ID, "--input", DATA)),
    ("instances suspend", ID, "done", (ID,)),
    ("instances resume", ID, "done", (ID,)),
    ("instances raise", ID, "done", (ID, "go", "--data", DATA)),
    ("instances rewind", "nothing", "failed", ("nothing",)),
    ("instances restart", "nothing", "failed", ("nothing",)),
    ("instances terminate", "nothing", "failed", ("nothing", "--output", DATA)),
    ("instances purge", "nothing", "failed", ("nothing",)),
    ("instances purge", "*", "done", ("--status", "failed", "--created-to", "365d", "--yes")),
    ("instances terminate", "(new)", "failed", ("--orchestration", "none", "--output", DATA, "--yes")),
    ("instances raise", "(new)", "failed", ("go", "--where", f"name == '{MARKER}'", "--data", DATA, "--yes")),
    ("jobs pause", "none", "failed", ("none",)),
    ("jobs resume", "none", "failed", ("none",)),
    ("jobs abort", "none", "failed", ("none",)),
    ("entities signal", "counter@audited", "done", ("counter@audited", "add", "--input", DATA)),
    ("entities clean", "*", "done", ()),
    ("early release", "nothing", "failed", ("nothing",)),
    ("early drop", "nothing", "failed", ("nothing", "--yes")),
    ("quarantine release", "orders *", "failed", ("--source", "orders", "--all")),
    ("quarantine drop", "orders k", "failed", ("k", "--source", "orders", "--yes")),
    ("early release", "(new)", "failed", ("--source", "none", "--yes")),
    ("early drop", "(new)", "failed", ("--source", "none", "--yes")),
    ("quarantine release", "(new)", "failed", ("--source", "none", "--older", "1h", "--yes")),
    ("quarantine drop", "(new)", "failed", ("--source", "none", "--yes")),
    ("engine backup", "", "done", ("--force", "BACKUP")),
    ("engine restore", "", "failed", ("BACKUP",)),
    ("engine compact", "", "failed", ()),
    ("engine reencrypt", "", "failed", ()),
    ("sources pause", "orders", "failed", ("orders",)),
    ("sources resume", "orders", "failed", ("orders",)),
    ("limits set", "nowhere", "failed", ("nowhere", "--rate", "1/s", "--for", "1m")),
    ("limits clear", "nowhere", "failed", ("nowhere",)),
    ("canary abort", "*", "failed", ()),
    ("canary resume", "*", "failed", ()),
    ("keys rotate", "*", "failed", ()),
    ("keys retire", "none", "failed", ("none",)),
    ("dlq drop", "*", "failed", ("--all", "--yes")),
    ("dlq restore", "*", "failed", ("--all", "--yes")),
    ("dlq replay", "*", "failed", ("--all", "--yes")),
    ("dlq edit", "nothing", "failed", ("nothing", "--set", f"payload.marker={MARKER}", "--yes")),
    ("erase", "*", "done", ("--where", f"payload.marker == '{MARKER}'", "--yes")),
    ("publish", "local/plain", "done", ("plain", "--data", DATA)),
    ("publish", "local/plain", "failed", ("local/plain", "--jsonl", "LINES")),
    ("sources seek", "plain", "done", ("plain", "--to", "end", "--yes")),
    ("sources seek", "plain", "failed", ("plain", "--to", "end", "--partition", "99", "--yes")),
    ("reload", "*", "failed", ()),
    ("sources seek", "nowhere", "failed", ("nowhere", "--to", "end", "--yes")),
)
"""Command, target, result, arguments."""


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[str, BridgeCommand]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            assert isinstance(command, BridgeCommand)
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
CHANGING = {name for name, command in COMMANDS.items() if command.effect == "changes"}


def kept(project: Path) -> list[dict[str, Any]]:
    return [
        line for place in ("audit", "engine") for line in AuditTrail(project / ".bridge" / place).read()
    ]  # fmt: skip


def test_every_changing_command_is_tried_here_and_takes_a_reason() -> None:
    assert {name for name, *_ in STEPS} == CHANGING
    for name in CHANGING:
        assert "reason" in {parameter.name for parameter in COMMANDS[name].params}, name


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - CHANGING))
def test_what_changes_nothing_says_so(name: str) -> None:
    assert COMMANDS[name].effect == ("serves" if name in ("serve", "worker") else "reads")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("name", "target", "result", "arguments"), STEPS, ids=[f"{name} {result}" for name, _, result, _ in STEPS]
)
def test_a_change_leaves_one_line(
    bridge: Bridge, project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    name: str, target: str, result: str, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    (tmp_path / "LINES").write_text(f'{{"body": "{MARKER}"}}\nno JSON {MARKER}\n')
    files = {"BACKUP": str(project / "backup.db"), "LINES": str(tmp_path / "LINES")}
    before = kept(project)
    given = [files.get(argument, argument) for argument in arguments]
    received = bridge(*name.split(), *given, "--reason", f"because of {name}")
    assert (received.exit_code == 0) == (result == "done"), received.output
    new = [line for line in kept(project) if line not in before]
    assert len(new) == 1, new
    [line] = new
    [record] = [each for each in caplog.records if each.name == "bridge.audit"]
    assert (record.levelno, vars(record)["action"], vars(record)["target"]) == (
        logging.INFO, line["action"], line["target"],
    )  # fmt: skip
    assert line["actor"] == getpass.getuser()
    assert line["via"] == "cli"
    assert line["action"].replace(".", " ").removesuffix("_by") == name
    assert line["target"].endswith(target)
    assert (line["result"], line["reason"]) == (result, f"because of {name}")
    assert (line["error"] is None) == (result == "done")
    # A word of the API, never the name of a class
    assert line["error"] is None or re.fullmatch("[a-z_]+", line["error"])
    assert MARKER not in json.dumps(line)


@pytest.mark.parametrize(
    "arguments",
    [
        ("instances", "list"),
        ("instances", "show", "nothing"),
        ("entities", "list"),
        ("early", "list"),
        ("quarantine", "list"),
        ("audit",),
    ],
    ids=" ".join,
)
def test_a_look_leaves_none(bridge: Bridge, project: Path, arguments: tuple[str, ...]) -> None:
    before = kept(project)
    bridge(*arguments)
    assert kept(project) == before


def test_each_of_several_ids_has_its_line(bridge: Bridge, project: Path) -> None:
    ids = [f"several-{uuid4().hex[:8]}" for _ in range(3)]
    for one in ids[:2]:
        bridge("instances", "start", "greet", "--id", one, "--input", '"x"')
        bridge("instances", "wait", one, "--timeout", TIMEOUT_OPTION)
    assert bridge("instances", "purge", *ids).exit_code == 1
    lines = [line for line in kept(project) if line["action"] == "instances.purge" and line["target"] in ids]
    assert [(line["target"], line["result"]) for line in lines] == [
        (ids[0], "done"), (ids[1], "done"), (ids[2], "failed"),
    ]  # fmt: skip


def test_an_unknown_engine_is_a_failed_change(bridge: Bridge, project: Path) -> None:
    assert bridge("instances", "terminate", "x", "--engine", "nowhere").exit_code == 2
    assert "unknown_name" in {line["error"] for line in kept(project)}


def test_the_lines_are_shown_and_filtered(bridge: Bridge, project: Path) -> None:
    bridge("instances", "terminate", "shown-1", "--reason", "\x1b[31mred")
    bridge("entities", "clean")
    received = bridge("audit", "--action", "instances.terminate", "--json")
    lines = [json.loads(line) for line in received.stdout.splitlines()]
    assert {line["action"] for line in lines} == {"instances.terminate"}
    assert lines[-1]["target"] == "shown-1"
    assert received.stderr.startswith("read ")
    assert str(project / ".bridge" / "engine" / "audit.jsonl") in received.stderr
    shown = bridge("audit", "--action", "instances", "--actor", getpass.getuser(), "--since", "1h").stdout
    assert "shown-1" in shown
    assert "entities.clean" not in shown
    assert "\x1b" not in shown
    assert bridge("audit", "--until", "1d", "--json").stdout == ""
    assert bridge("audit", "--actor", "nobody else", "--json").stdout == ""
