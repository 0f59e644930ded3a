"""`bridge engine backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.engine.file import copying, file_options, to_change
from bridge.cli.options import json_option, reason_option
from bridge.cli.output import print_json


@make(
    "backup",
    effect="changes",
    examples="""
        bridge engine backup /backups/engine.db
        bridge engine backup --force --json /backups/engine.db
        bridge engine backup --path hubs/default.db /backups/default.db
    """,
    exits={
        0: "the backup is complete and on disk",
        1: "FILE exists, or cannot be written",
        3: "the engine's file is missing, or cannot be read",
    },
)
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@reason_option
@file_options
@json_option
def command(path: Path | None, target: Path, force: bool, as_json: bool, reason: str | None, **options: Any) -> None:
    """Copy the file of an embedded engine to FILE, as of one moment.

    The engine may run meanwhile. FILE appears when it is complete, and only its owner can read it. It holds payloads
    as the original does, encrypted or not. FILE cannot be in the engine's directory under a name that ends with .db.
    """
    file = to_change(path, options, "engine.backup", reason)
    from bridge.app.operations.engine_file import TargetRefused, audited, backup

    try:
        with audited("engine.backup", file, {"to": str(target)}, reason), copying("backup", as_json) as progress:
            size = backup(file, target, force=force, progress=progress)
    except TargetRefused as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json({"file": str(file), "backup": str(target), "bytes": size})
    else:
        click.echo(f"{file}: {size:,} bytes backed up to {target}")
