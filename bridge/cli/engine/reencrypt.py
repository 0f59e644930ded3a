"""`bridge engine reencrypt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.engine.file import copying, file_options, named_with_keys
from bridge.cli.options import json_option, reason_option
from bridge.cli.output import clean, plural, print_json


@make(
    "reencrypt",
    effect="changes",
    examples="""
        bridge engine reencrypt --dry-run
        bridge engine reencrypt --reason 'key 2026-05 is withdrawn'
    """,
    exits={
        0: "every payload is encrypted with the current key; with --dry-run: the payloads were counted",
        1: "some payloads cannot be decrypted and are unchanged",
        3: "the engine runs, the file does not exist, there is no space for a copy, or a key is missing",
    },
)
@click.option("--dry-run", is_flag=True, help="Only count payloads by key; also while the engine runs.")
@reason_option
@file_options
@json_option
def command(path: Path | None, dry_run: bool, as_json: bool, reason: str | None, **options: Any) -> int:
    """Rewrite the payloads in an embedded engine's file that are not encrypted with the first key of its `encryption`.

    With `active: false` they are rewritten in plain text. Afterwards the whole file is rewritten, and nothing of the
    former payloads remains in it. The engine must be stopped, and the disk must have room for a copy of the file. An
    interrupted run continues where it stopped.

    The output shows how many payloads still need each key. A key that no payload needs can be withdrawn.
    """
    file, keys = named_with_keys(path, options, None if dry_run else "engine.reencrypt", reason)
    from bridge.app.operations.engine_file import PLAIN, audited, count_values, reencrypt
    from bridge.core.errors import EngineMisconfigured

    if dry_run:
        _show(file, count_values(file, keys), PLAIN, as_json)
        return exit_codes.OK
    key = keys.current.id if keys is not None and keys.active else PLAIN
    with audited("engine.reencrypt", file, {"key": key} if key else {}, reason) as change:
        if keys is None:
            raise EngineMisconfigured(
                "the engine has no `encryption`; to end encryption, keep its keys with `active: false` for this command"
            )
        with copying("reencrypt", as_json) as progress:
            result = reencrypt(file, keys, progress)
        if result.unreadable:
            change.result, change.error = "failed", "damaged"
    if not as_json:
        for problem in result.unreadable:
            click.echo(f"{file}: {clean(problem)}")
        click.echo(f"{file}: {plural(result.rewritten, 'payload')} rewritten")
    _show(file, result.values, PLAIN, as_json, {"rewritten": result.rewritten, "unreadable": list(result.unreadable)})
    return exit_codes.FAILED if result.unreadable else exit_codes.OK


def _show(
    file: Path, values: Mapping[str, int], plain: str, as_json: bool, more: Mapping[str, object] | None = None
) -> None:
    if as_json:
        encrypted = {id_: number for id_, number in values.items() if id_ != plain}
        print_json({"file": str(file), "keys": encrypted, "plain": values.get(plain, 0), **(more or {})})
        return
    for id_, number in values.items():
        where = "unencrypted" if id_ == plain else f"under key {clean(id_)}"
        click.echo(f"{file}: {plural(number, 'payload')} {where}")
