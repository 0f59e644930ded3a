"""Which engine's file a command is for."""

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
    """Adds `path` and what `engine_options` adds."""
    path = click.option(
        "--path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Any engine's file, instead of the configured engine's.",
    )
    return path(engine_options(function))


def named(path: Path | None, options: dict[str, Any]) -> Path:
    """The file that the options name. Raises: ConfigError, LookupError, EngineMisconfigured."""
    from bridge.app.composition import load_config
    from bridge.app.engine_file import configured, given

    if path is None:
        return configured(load_config(options["config"], options["overlay"]), options["engine"])
    if any(options.values()):
        raise click.UsageError(
            "--path names the file: give no engine and no configuration", click.get_current_context()
        )
    return given(path)


def named_with_keys(path: Path | None, options: dict[str, Any]) -> tuple[Path, Keyring | None]:
    """The file, and the keys of its payloads. With a path the other options name the engine whose keys are meant.

    Raises: ConfigError, LookupError, EngineMisconfigured.
    """
    from bridge.app.composition import load_config
    from bridge.app.engine_file import configured, given, keyring

    if path is not None and not any(options.values()):
        return given(path), None
    loaded = load_config(options["config"], options["overlay"])
    file = configured(loaded, options["engine"]) if path is None else given(path)
    return file, keyring(loaded, options["engine"])


@contextmanager
def copying(label: str, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function that shows a person how far a copy has come; None where nobody looks."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show
