"""Selection of the engine's file for a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.connection import engine_options

if TYPE_CHECKING:
    from bridge.encryption import Keyring

F = TypeVar("F", bound=Callable[..., Any])


def file_options(function: F) -> F:
    """Add the option `path` and those of `engine_options`."""
    path = click.option(
        "--path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File of any engine, instead of the configured engine.",
    )
    return path(engine_options(function))


def to_change(path: Path | None, options: dict[str, Any], action: str, reason: str | None) -> Path:
    """File that the options name, for a command that changes it. An engine without a file leaves an audit line."""
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.engine_file import configured

    if path is None:
        loaded = load_config(options["config"], options["overlay"])
        with refused(loaded, action, options["engine"] or "default", reason):
            return configured(loaded, options["engine"])
    return _given(path, options)


def _given(path: Path, options: dict[str, Any]) -> Path:
    from bridge.app.operations.engine_file import given

    if any(options.values()):
        raise click.UsageError("use either --path, or an engine and a configuration", click.get_current_context())
    return given(path)


def named_with_keys(
    path: Path | None, options: dict[str, Any], action: str | None = None, reason: str | None = None
) -> tuple[Path, Keyring | None]:
    """File, and the keys of its payloads. With a path, the other options name the engine that has the keys.

    action, reason: for a command that changes the file. An engine without a file then leaves an audit line.
    Raises: ConfigError, LookupError, EngineMisconfigured.
    """
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.engine_file import configured, given, keyring

    if path is not None and not any(options.values()):
        return given(path), None
    loaded = load_config(options["config"], options["overlay"])
    if path is not None:
        file = given(path)
    elif action is None:
        file = configured(loaded, options["engine"])
    else:
        with refused(loaded, action, options["engine"] or "default", reason):
            file = configured(loaded, options["engine"])
    return file, keyring(loaded, options["engine"])


@contextmanager
def copying(label: str, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Context of a function that displays the progress of a copy; None if standard error is not a terminal."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show
