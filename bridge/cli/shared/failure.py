"""End of a failed command: one line on standard error, and a traceback only for bugs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.output import say
from bridge.core.errors import BridgeError, ConfigError


def guarded(run: Callable[[], Any]) -> int:
    """Exit code of a command line. `run` returns a code, or any other value for success."""
    try:
        result = run()
    except BridgeError as error:
        return report(error)
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, asyncio.CancelledError, click.Abort):
        # `asyncio.Runner` raises CancelledError for a signal that comes while it starts
        click.echo("error: interrupted", err=True)
        return exit_codes.INTERRUPTED
    except LookupError as error:
        # A name that is not configured. Subclasses, like KeyError, are bugs
        if type(error) is not LookupError:
            raise
        say(f"error: {error}", err=True)
        return exit_codes.USAGE
    return result if isinstance(result, int) else exit_codes.OK


def written(run: Callable[[], Any]) -> Any:
    """Result of `run` once its output is written; BROKEN_PIPE if the reader closed the pipe."""
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes at exit and would report the broken pipe again
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return exit_codes.BROKEN_PIPE
    return result


def report(error: BridgeError) -> int:
    """Print an error for people; returns its exit code."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            say(problem if problem.severity == "warning" else f"error: {problem}", err=True)
    else:
        say(f"error: {' '.join(str(error).split())}", err=True)
    return exit_codes.of(error)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # Its message is the help of the group that was called without a command
        click.echo(error.format_message(), err=True)
        return error.exit_code
    say(f"error: {error.format_message()}{_setting(error)}", err=True)
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(f"{context.get_usage()}\nmore: {context.command_path} --help", err=True)
    return error.exit_code


def _setting(error: click.ClickException) -> str:
    """End of the error about an unknown option: the settings of the configuration with its name."""
    if not isinstance(error, click.NoSuchOption):
        return ""
    from bridge.config.model_fields import settings_named

    found = settings_named(error.option_name.lstrip("-").replace("-", "_"))
    return f" It is a setting of the configuration: {', '.join(f'`{each}`' for each in found[:3])}." if found else ""
