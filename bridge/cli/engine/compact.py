"""`bridge engine compact`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.engine.file import file_options, to_change
from bridge.cli.options import json_option, reason_option
from bridge.cli.output import print_json


@make(
    "compact",
    effect="changes",
    examples="""
        bridge engine compact
        bridge engine compact --path hubs/default.db
    """,
    exits={0: "done", 3: "the engine runs, the file does not exist, or there is no space for a copy"},
)
@reason_option
@file_options
@json_option
def command(path: Path | None, as_json: bool, reason: str | None, **options: Any) -> None:
    """Shrink the file of an embedded engine to the size of its contents.

    Removed instances leave free space in the file, which new ones fill; this command returns it to the disk. The
    engine must be stopped, and the disk must have room for a copy of the file.
    """
    file = to_change(path, options, "engine.compact", reason)
    from bridge.app.operations.engine_file import audited, compact

    with audited("engine.compact", file, {}, reason):
        before, after = compact(file)
    if as_json:
        print_json({"file": str(file), "bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{file}: {before:,} bytes before, {after:,} after")
