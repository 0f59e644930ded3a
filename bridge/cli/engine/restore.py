"""`bridge engine restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.engine.file import copying, file_options, named_with_keys
from bridge.cli.options import json_option, reason_option
from bridge.cli.output import clean, print_json


@make(
    "restore",
    effect="changes",
    examples="""
        bridge engine restore /backups/engine.db
        bridge engine restore --path hubs/default.db /backups/default.db
    """,
    exits={
        0: "the engine's file has been replaced with the backup",
        1: "the backup is damaged; nothing was changed",
        3: "the engine runs, the backup does not exist or cannot be restored, or a key is missing",
    },
)
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@reason_option
@file_options
@json_option
def command(path: Path | None, source: Path, as_json: bool, reason: str | None, **options: Any) -> int:
    """Replace an embedded engine's file with the backup FILE.

    The engine must be stopped. The backup is checked first, as by `bridge engine check`, and stays unchanged. The
    previous file is kept next to the new one, under a name with the time. Set the positions of the sources back to
    the time of the backup: it lacks the messages that were settled since.

    A backup with encrypted payloads needs their keys in the configuration. With --path alone, these payloads are not
    checked.
    """
    file, keys = named_with_keys(path, options, "engine.restore", reason)
    decrypts = path is None or any(options.values())
    from bridge.app.operations.engine_file import audited, restore

    with (
        audited("engine.restore", file, {"from": str(source)}, reason) as change,
        copying("restore", as_json) as progress,
    ):
        restored = restore(source, file, progress, keys, decrypts=decrypts)
        if restored.problems:
            change.result, change.error = "failed", "damaged"
    kept = None if restored.kept is None else str(restored.kept)
    if as_json:
        print_json({"file": str(file), "backup": str(source), "kept": kept, "problems": restored.problems})
    elif restored.problems:
        for problem in restored.problems:
            click.echo(f"{source}: {clean(problem)}")
    else:
        click.echo(f"{file}: restored from {source}" + (f"; the previous file is {kept}" if kept else ""))
    return exit_codes.FAILED if restored.problems else exit_codes.OK
