"""`bridge erase`."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import engine_options, operate
from bridge.cli.shared.options import json_option, reason_option
from bridge.cli.shared.output import print_json, print_table
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.operations.erase import ErasureFinding, ErasureProgress


@make(
    "erase",
    effect="changes",
    examples="""
        bridge erase --where "payload.customer == 'c-17'" --dry-run
        bridge erase --where "payload.customer == 'c-17'" --yes
        bridge erase --where "kind == 'early' && payload.email == 'ann@example.org'" --yes --json
    """,
    exits={
        0: "the engine holds no payload that matches",
        1: "some payloads are left (of a running instance, or in the state of an entity), or the question was declined",
        3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
    },
)
@click.option(
    "--where", metavar="CEL", required=True, help="Condition over `payload`, `kind`, `id` and `name` of each payload."
)
@click.option("--dry-run", is_flag=True, help="Only show the payloads that would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@reason_option
@engine_options
def command(where: str, dry_run: bool, yes: bool, as_json: bool, reason: str | None, **engine: Any) -> int:
    """Remove a person's payloads from an engine: finished instances, early and quarantined messages.

    `payload` is each payload in turn: input, output, custom status and every payload in the history of an instance,
    and the body of a waiting message. Finished instances are purged with their children, and messages are dropped
    without a dead letter. Running instances and states of your entities are listed but kept. The bridge cannot erase
    topics. Erased bytes stay in the free pages of an embedded engine's file until `bridge engine compact`, and in
    backups.
    """
    context = click.get_current_context()
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to confirm on: use --yes, or --dry-run first", context)
        if not click.confirm("Erase all payloads that match, permanently?", err=True):
            return 1
    found, topics = _erase(engine, where, dry_run, reason, _progress)
    left = [each for each in found if each.state in ("runs", "left")]
    if as_json:
        print_json({"findings": [asdict(each) for each in found], "topics": topics})
        return 1 if left else 0
    if found:
        rows = [(each.kind, each.id, each.name, each.state, each.detail) for each in found]
        print_table(("KIND", "ID", "NAME", "STATE", "NEXT STEP"), rows)
    count = sum(each.state == ("found" if dry_run else "erased") for each in found)
    click.echo(f"{plural(count, 'record')} {'would be' if dry_run else ''} erased".replace("  ", " "))
    click.echo("not reached: " + "; ".join(topics), err=True)
    return 1 if left else 0


def _erase(
    options: dict[str, Any], where: str, dry_run: bool, reason: str | None, progress: ErasureProgress
) -> tuple[list[ErasureFinding], list[str]]:
    from bridge.app.composition import load_config
    from bridge.app.operations.erase import ErasureFinding, condition_of, elsewhere, preview

    if options["remote"] is not None:
        condition_of(where)
        [erased] = operate(options, ("erase", {"where": where, "dry_run": dry_run, "reason": reason}))
        return [ErasureFinding(**each) for each in erased], [
            "the topics of the daemon's sources, targets and dead letters"
        ]
    loaded = load_config(options["config"], options["overlay"])
    if dry_run:
        found = asyncio.run(preview(loaded, options["engine"], where, progress))
    else:
        condition_of(where)
        [erased] = operate(options, ("erase", {"where": where, "reason": reason}))
        found = [ErasureFinding(**each) for each in erased]
    return found, elsewhere(loaded)


def _progress(done: int, all_: int) -> None:
    if sys.stderr.isatty() and all_ > 1_000:
        click.echo(f"\r{done:,} of {all_:,} instances", nl=done == all_, err=True)
