"""`bridge engine check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.engine.file import file_options, named_with_keys
from bridge.cli.options import json_option
from bridge.cli.output import clean, print_json


@make(
    "check",
    effect="reads",
    examples="""
        bridge engine check
        bridge engine check --engine eu
        bridge engine check --path hubs/default.db --json
    """,
    exits={
        0: "the file is not damaged",
        1: "the file is damaged",
        3: "the file does not exist or cannot be read, or a key is missing",
    },
)
@file_options
@json_option
def command(path: Path | None, as_json: bool, **options: Any) -> int:
    """Read the whole file of an embedded engine and report any damage. The engine may run meanwhile.

    Encrypted payloads need their keys: with --path, the options -c and --engine name the engine that has them.
    """
    file, keys = named_with_keys(path, options)
    from bridge.app.operations.engine_file import check

    problems = check(file, keys)
    if as_json:
        print_json({"file": str(file), "problems": problems})
    else:
        for problem in problems:
            click.echo(f"{file}: {clean(problem)}")
        if not problems:
            click.echo(f"{file}: ok")
    return exit_codes.FAILED if problems else exit_codes.OK
