"""Printed output: tables, JSON, and no control characters."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bridge.cli import root
from bridge.cli.shared.output import ProgressCount, clean, compact, local_time, print_fields, print_json, print_table
from bridge.cli.shared.parameters import TimeType
from bridge.core.words import plural
from tests.kit.processes import terminal_output


def test_a_table_in_a_pipe_is_plain_and_never_wraps(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "NAME"), [("a", "x" * 3000), ("long id", "[bold]markup[/bold] :smile:")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ID       NAME", "a        " + "x" * 3000, "long id  [bold]markup[/bold] :smile:"]


def on_terminal(code: str, columns: int) -> list[str]:
    """Return the lines that a table leaves on a terminal."""
    code = f"from bridge.cli.shared.output import print_table\n{code}"
    environ = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    output = terminal_output([sys.executable, "-c", code], env=environ)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


def test_a_table_on_a_terminal_fits_it() -> None:
    lines = on_terminal("print_table(('ID', 'NAME'), [('a', 'x' * 200)])", 60)
    assert max(map(len, lines)) <= 60
    assert sum(line.count("x") for line in lines) == 200


LONG = "orders-" + "i" * 40
"""Id that a person copies."""


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 20])
@pytest.mark.parametrize("folds", ["None", "('ID', 'WHY')"])
def test_an_id_is_in_one_piece_on_every_terminal(columns: int, folds: str) -> None:
    why = "word " * 30
    code = (
        f"print_table(('STATE', 'ID', 'CREATED', 'WHY'), [('COMPLETED', '{LONG}', '3m', '{why}')] * 2, folds={folds})"
    )
    lines = on_terminal(code, columns)
    assert sum(LONG in line for line in lines) == 2
    assert sum(line.count("word") for line in lines) == 60
    if columns >= 80:
        assert max(map(len, lines)) <= columns
    blocks = any(line.split() == ["CREATED", "3m"] for line in lines)
    assert blocks == (columns < 60 + 20)


def test_ids_stay_in_one_piece_in_status_too() -> None:
    code = (
        "from bridge.cli.shared.screen import Screen, Table\n"
        f"Screen().show([Table(('JOB', 'KIND', 'STATE', 'DETAIL'), [('{LONG}', 'replay', 'running', 'why ' * 40)])])"
    )
    for columns in (80, 50, 20):
        lines = on_terminal(code, columns)
        assert sum(LONG in line for line in lines) == 1, lines
        assert sum(line.count("why") for line in lines) == 40


@pytest.mark.parametrize(("columns", "whole"), [(80, True), (40, True), (20, False)])
def test_words_stay_whole_while_others_are_folded(columns: int, whole: bool) -> None:
    code = "print_table(('TEXT', 'STATUS', 'CREATED'), [('i' * 100, 'COMPLETED', '3m')], folds=('TEXT',))"
    lines = on_terminal(code, columns)
    assert max(map(len, lines)) <= columns
    assert sum(line.count("i") for line in lines) == 100
    assert ("COMPLETED" in "\n".join(lines)) == whole


@pytest.mark.parametrize("value", [{"a": 2**70}, "é", "\ud800", [None, 1.5], {"\x1b": "\x9b"}])
def test_json_keeps_values(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é", "plain é"), ("a\x1b[31mb", "a\\x1b[31mb"), ("\u202e\x9b\n", "\\u202e\\x9b\\n"), ("\ud800", "\\ud800")],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_compact() -> None:
    assert compact(None) == ""
    assert compact({"a": "é"}) == '{"a": "é"}'
    assert compact("x" * 100, 10) == '"xxxxxxxx…'


def test_fields_are_aligned_and_empty_ones_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields((("a", "1"), ("longer", "2"), ("none", "")))
    assert capsys.readouterr().out == "a       1\nlonger  2\n"


def test_plurals() -> None:
    assert [plural(1, "route"), plural(2, "entity"), plural(1234, "message")] == [
        "1 route", "2 entities", "1,234 messages",
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), "\r12,345 messages read\r\x1b[K"), (io.StringIO(), "")])
def test_progress_is_for_terminals(stream: io.StringIO, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(ProgressCount, "INTERVAL", 0.0)
    progress = ProgressCount("message", "read")
    progress(12_345)
    progress.close()
    assert stream.getvalue() == shown


def test_every_command_that_prints_json_takes_both_forms() -> None:
    def commands(command: click.Command) -> Iterator[click.Command]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from commands(inner)
        else:
            yield command

    found = 0
    for command in commands(root):
        options = {opt: each for each in command.params if isinstance(each, click.Option) for opt in each.opts}
        form = options.get("--output")
        if "--json" in options and not (form and isinstance(form.type, click.Path)):  # a file has that name already
            found += 1
            assert form is not None, command.name
            assert isinstance(form.type, click.Choice), command.name
            assert "json" in form.type.choices
    assert found > 20


@pytest.mark.parametrize("form", [("-o", "json"), ("--json",), ("-o", "table", "--json"), ("--output=json",)])
def test_both_forms_print_the_same(form: tuple[str, ...]) -> None:
    result = CliRunner().invoke(root, ["lint", "--rules", *form])
    assert result.exit_code == 0
    assert json.loads(result.stdout)


@pytest.fixture
def _in_cairo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to two hours east of Greenwich, without its daylight saving time."""
    monkeypatch.setenv("TZ", "EET-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_in_cairo")
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, ""),
        ("", ""),
        ("2030-01-31T22:00:00Z", "2030-02-01T00:00:00+02:00"),
        ("2030-01-31T08:00:00.120Z", "2030-01-31T10:00:00.120+02:00"),
        ("2030-01-31T08:00:00.123456Z", "2030-01-31T10:00:00.123456+02:00"),
        ("2030-01-31T08:00:00+00:00", "2030-01-31T10:00:00+02:00"),
        ("paused since 2030-01-31T08:00:00Z (why)", "paused since 2030-01-31T10:00:00+02:00 (why)"),
        ("2030-01-31T08:00:00+01:00", "2030-01-31T08:00:00+01:00"),
        ("2030-13-31T08:00:00Z", "2030-13-31T08:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("id-2030-01-31T08:00:00Zulu", "id-2030-01-31T08:00:00Zulu"),
        (0, "1970-01-01T02:00:00+02:00"),
        (datetime(2030, 1, 31, 8, tzinfo=UTC), "2030-01-31T10:00:00+02:00"),
    ],
)
def test_people_see_local_times_with_their_offset(given: str | float | datetime | None, shown: str) -> None:
    assert local_time(given) == shown


def test_an_offset_of_zero_is_z(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert local_time("2030-01-31T08:00:00.120Z") == "2030-01-31T08:00:00.120Z"
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_in_cairo")
def test_a_printed_local_time_can_be_given_to_since() -> None:
    at = datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert TimeType().convert(local_time(at), None, None) == at
