"""End of a failed command: one line on standard error, and a traceback only for bugs."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.output import say
from bridge.core.errors import BridgeError, ConfigError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a write to a disk. An error of opening a file has its name."""


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
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        _discard_output()
        say(f"error: the output cannot be written: {error.strerror}", err=True)
        return exit_codes.FAILED
    return result if isinstance(result, int) else exit_codes.OK


def written(run: Callable[[], Any]) -> Any:
    """Result of `run` once its output is written; BROKEN_PIPE if the reader closed the pipe."""
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return exit_codes.BROKEN_PIPE
    return result


def open_standard_streams() -> None:
    """Open closed standard streams on the null device, and give standard output a buffer.

    A file of the bridge would otherwise get the number of a closed stream, and what libraries write to that. Without a
    buffer (PYTHONUNBUFFERED) Python takes a part that was written for the whole: output to a full disk would be cut
    off silently.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    out = sys.stdout
    if isinstance(getattr(out, "buffer", None), io.RawIOBase):
        descriptor = out.fileno()
        sys.stdout = os.fdopen(descriptor, "w", 1, encoding=out.encoding, errors=out.errors, closefd=False)


def _discard_output() -> None:
    """Write standard output to the null device: the interpreter flushes at exit and would report the error again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
