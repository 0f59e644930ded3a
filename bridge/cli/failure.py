"""How a failed command ends: one line on standard error, never a traceback for what was foreseen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from bridge.cli import exit_codes
from bridge.cli.output import say
from bridge.errors import BridgeError, ConfigError


def guarded(run: Callable[[], Any]) -> int:
    """The exit code of a command line. `run` returns a code, or anything else for success."""
    try:
        result = run()
    except BridgeError as error:
        return report(error)
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("error: interrupted", err=True)
        return exit_codes.INTERRUPTED
    except LookupError as error:
        # What was asked for by a name that is not configured; the subclasses, like KeyError, are bugs.
        if type(error) is not LookupError:
            raise
        say(f"error: {error}", err=True)
        return exit_codes.USAGE
    return result if isinstance(result, int) else exit_codes.OK


def written(run: Callable[[], Any]) -> Any:
    """The result of `run` once its output is written; a code of its own when whoever read it went away."""
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes at exit and would complain about the pipe once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return exit_codes.BROKEN_PIPE
    return result


def report(error: BridgeError) -> int:
    """Tell a person of an error; returns the exit code it leads to."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            say(problem if problem.severity == "warning" else f"error: {problem}", err=True)
    else:
        say(f"error: {' '.join(str(error).split())}", err=True)
    return exit_codes.of(error)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # Its message is the help of the group that was named without a command.
        click.echo(error.format_message(), err=True)
        return error.exit_code
    say(f"error: {error.format_message()}", err=True)
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(f"{context.get_usage()}\nmore: {context.command_path} --help", err=True)
    return error.exit_code
