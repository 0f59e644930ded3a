"""Command line as a whole: help, versions, mistakes, exit codes, speed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from bridge import __version__
from bridge.cli import root
from bridge.cli.shared import exit_codes, failure
from bridge.cli.shared.command import BridgeCommand, BridgeGroup
from bridge.core.errors import (
    BridgeError,
    BrokerUnavailable,
    ConfigError,
    EngineUnavailable,
    InstanceNotFound,
    NoRoute,
    Problem,
    PublishFailed,
)


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_examples_and_exit_codes(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(root, [*path, "--help"], prog_name="bridge")
    assert result.exit_code == 0
    assert "\nExamples:\n" in result.output
    assert f"bridge {' '.join(path)}" in result.output.partition("Examples:")[2]
    if isinstance(ALL[path], BridgeCommand):
        assert "\nExit codes:\n" in result.output
    assert max(map(len, result.output.splitlines())) <= 120


@pytest.mark.parametrize(
    "path", [path for path, command in ALL.items() if isinstance(command, BridgeGroup)] + [()], ids=" ".join
)
def test_groups_list_exactly_their_commands(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(root, [*path, "--help"])
    for name in (full[-1] for full in ALL if full[:-1] == path):
        assert f"\n  {name} " in result.output


def test_every_command_that_needs_one_takes_a_configuration() -> None:
    options = {
        path: {name for parameter in command.params for name in parameter.opts}
        for path, command in ALL.items()
        if isinstance(command, BridgeCommand)
    }
    without = {path for path, names in options.items() if not {"-c", "--config", "--overlay"} <= names}
    assert without == {("init",), ("demo",), ("completion",), ("diff",), ("tokens", "new")}


def test_version() -> None:
    result = CliRunner().invoke(root, ["--version"])
    assert (result.exit_code, result.output) == (0, f"bridge {__version__}\n")


def test_help_starts_fast_because_it_imports_no_command() -> None:
    code = "import sys\nfrom bridge.cli import root\nroot(['--help'], standalone_mode=False)\nprint(*sys.modules)"
    before = os.times()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5
    loaded = set(result.stdout.splitlines()[-1].split())
    heavy = {"pydantic", "grpc", "durabletask", "yaml", "rich", "cel_expr_python", "aiohttp", "bridge.cli.publish"}
    assert not heavy & loaded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publsh"], "there is no command 'publsh'; did you mean 'publish'?"),
        (["instances", "lst"], "there is no command 'lst'; did you mean 'list'?"),
        (["xyzzy"], "there is no command 'xyzzy' (known: serve, "),
        (["check", "--strickt"], "--strickt"),
        (["instances", "show"], "Missing argument 'ID...'"),
        (["publish", "shop", "--data", "{}", "--key", os.fsdecode(b"k\xff")], r"'k\udcff' is not UTF-8"),
        (["publish", "shop", "--data", "{}", "--header", os.fsdecode(b"a=\xc3")], r"'a=\udcc3' is not UTF-8"),
        (["instances", "raise", "o-1", os.fsdecode(b"\xe4")], r"'\udce4' is not UTF-8"),
    ],
)
def test_a_mistaken_command_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(root, arguments, prog_name="bridge")
    assert result.exit_code == exit_codes.USAGE
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert "--help" in rest[-1]


@pytest.mark.parametrize("arguments", [[], ["instances"], ["entities"]])
def test_without_a_command_there_is_help_and_nothing_else(arguments: list[str]) -> None:
    result = CliRunner().invoke(root, arguments, prog_name="bridge")
    assert result.exit_code == exit_codes.USAGE
    assert result.stderr == CliRunner().invoke(root, [*arguments, "--help"], prog_name="bridge").stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoRoute("no rule"), 1),
        (InstanceNotFound("no such instance"), 1),
        (PublishFailed("no"), 1),
        (EngineUnavailable("away"), 3),
        (BrokerUnavailable("away"), 3),
        (BridgeError("else"), 1),
        (LookupError("there is no engine 'eu'"), 2),
    ],
)
def test_errors_are_one_line_and_a_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        raise error

    assert failure.guarded(run) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_broken_configuration_tells_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        raise ConfigError(
            [Problem("a.yaml", 1, 2, "x", "is wrong"), Problem("a.yaml", 3, 4, "", "is odd", severity="warning")]
        )

    assert failure.guarded(run) == exit_codes.UNAVAILABLE
    assert capsys.readouterr().err == "error: a.yaml:1:2 x: is wrong\na.yaml:3:4: warning: is odd\n"


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), AssertionError()])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def run() -> None:
        raise error

    with pytest.raises(type(error)):
        failure.guarded(run)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_ctrl_c(error: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        raise error

    assert failure.guarded(run) == exit_codes.INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("arguments", [["check", "--schema"], ["check", "-c", "nowhere.yaml"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == exit_codes.BROKEN_PIPE
