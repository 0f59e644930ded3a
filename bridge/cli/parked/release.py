"""`bridge parked release`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_parked
from bridge.cli.output import plural, say
from bridge.cli.parked.source import unknown

if TYPE_CHECKING:
    from bridge.app.parked import Change, ParkedMessages


@make(
    "release",
    examples="""
        bridge parked release order-1001 order-1002
        bridge parked release --source orders k-17
        bridge parked release --source orders --all
    """,
    exits=EXITS
    | {
        3: "the configuration is broken, or the engine does not answer, or no worker has done it in time",
        1: "nothing waits there, or nobody would take it up",
    },
)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--source", metavar="NAME", help="The targets are quarantined keys of this source.")
@click.option("--all", "all_", is_flag=True, help="Every quarantined key of the source.")
@engine_options
def command(targets: tuple[str, ...], source: str | None, all_: bool, **engine: Any) -> int:
    """Try messages again now.

    A target is the id of an instance: what waits for it is delivered if it is there by now, else it goes on waiting.
    With --source it is a quarantined key: its messages go through the rules again, in order, and later ones follow.
    """
    context = click.get_current_context()
    if all_ and source is None:
        raise click.UsageError("--all needs a --source", context)
    if all_ == bool(targets):
        raise click.UsageError("name a target, or say --source NAME --all", context)

    if source is not None:
        _taken_up(engine, source)

    async def release(parked: ParkedMessages) -> list[Change]:
        if source is None:
            return [await parked.release_instance(target) for target in targets]
        keys = await parked.keys(source) if all_ else targets
        return [await parked.release_key(source, key) for key in keys]

    changes = on_parked(engine, release)
    for change in changes:
        if source is None:
            left = f", {change.after:,} still wait" if change.after else ""
            say(f"{change.what}: {plural(change.before - change.after, 'message')} delivered{left}")
        else:
            say(f"{change.what}: {plural(change.before, 'message')} released")
    if not changes:
        if unknown(engine, source):
            return 1
        click.echo("nothing to release")
    return 0


def _taken_up(options: dict[str, Any], source: str) -> None:
    """Raises: NotTakenUp."""
    from bridge.app.composition import load_config
    from bridge.app.stranded import refuse_release

    refuse_release(load_config(options["config"], options["overlay"]), source, options["engine"])
