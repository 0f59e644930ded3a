"""`bridge entities clean`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import plural


@make(
    "clean",
    effect="changes",
    examples="""
        bridge entities clean
        bridge entities clean --keep-empty
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--keep-empty", is_flag=True, help="Do not remove entities without state.")
@click.option("--keep-locks", is_flag=True, help="Do not release locks whose holders no longer exist.")
@reason_option
@engine_options
def command(keep_empty: bool, keep_locks: bool, reason: str | None, **engine: Any) -> None:
    """Remove entities that have no state, and release locks whose holders are gone."""
    given = {"empty": not keep_empty, "locks": not keep_locks, "reason": reason}
    [result] = operate(engine, ("entities.clean", given))
    removed = plural(result["removed"], "empty entity")
    click.echo(f"{removed} removed, {plural(result['released'], 'orphaned lock')} released")
