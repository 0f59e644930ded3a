"""Which engine's file a command is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bridge.cli.connection import engine_options

F = TypeVar("F", bound=Callable[..., Any])


def file_options(function: F) -> F:
    """Adds `path` and what `engine_options` adds."""
    path = click.option(
        "--path", type=click.Path(path_type=Path), metavar="FILE", help="Any engine's file, without a configuration."
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
