"""`bridge entities clean`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_entities
from bridge.cli.output import plural


@make(
    "clean",
    examples="""
        bridge entities clean
        bridge entities clean --keep-empty
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--keep-empty", is_flag=True, help="Do not remove entities without state.")
@click.option("--keep-locks", is_flag=True, help="Do not release locks whose holders are gone.")
@engine_options
def command(keep_empty: bool, keep_locks: bool, **engine: Any) -> None:
    """Remove entities that have no state, and release locks whose holders are gone."""
    result = on_entities(engine, lambda entities: entities.clean(empty=not keep_empty, locks=not keep_locks))
    removed = plural(result.empty_entities_removed, "empty entity")
    click.echo(f"{removed} removed, {plural(result.orphaned_locks_released, 'orphaned lock')} released")
