"""`bridge engine export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.engine.file import file_options, named_with_keys
from bridge.cli.options import json_option
from bridge.cli.output import plural, print_json


@make(
    "export",
    effect="reads",
    examples="""
        bridge engine export | jq .state.instanceId
        bridge engine export --output instances.jsonl
        bridge engine export --path hubs/default.db --output default.jsonl --json
    """,
    exits={
        0: "every instance was written",
        1: "the output cannot be written",
        3: "the file cannot be read, or a key is missing",
    },
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File for the instances; a summary is printed instead.",
)
@file_options
@json_option
def command(path: Path | None, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write every instance of an embedded engine with its history, one JSON object per line.

    An object has the keys state, finished and history, with the field names of the Durable Task protocol. Payloads
    are written in plain text, even those that the file holds encrypted. With --path, the options -c and --engine name
    the engine that has the keys. The engine may run meanwhile.
    """
    file, keys = named_with_keys(path, options)
    from bridge.app.operations.engine_file import export, replacing

    if output is None:
        export(file, sys.stdout, keys)
        return
    if output.exists() and file.exists() and output.samefile(file):
        raise click.UsageError("--output is the engine's own file", click.get_current_context())
    try:
        with replacing(output) as out:
            count = export(file, out, keys)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "") from None
    if as_json:
        print_json({"file": str(file), "output": str(output), "instances": count})
    else:
        click.echo(f"{plural(count, 'instance')} exported to {output}")
