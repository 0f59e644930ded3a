"""`bridge instances purge`."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances, operate
from bridge.cli.options import reason_option
from bridge.cli.output import plural
from bridge.cli.parameters import SINCE, STATUS


@make(
    "purge",
    effect="changes",
    examples="""
        bridge instances purge order-1001
        bridge instances purge --status completed --created-to 7d
        bridge instances purge --status terminated --yes
    """,
    exits=EXITS | {1: "no such instance, the instance has not finished, or the question was declined"},
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--status", "statuses", type=STATUS, multiple=True, metavar="STATUS", help="completed, failed or terminated."
)
@click.option("--created-from", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--created-to", "--created-before", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--no-recursive", is_flag=True, help="Keep their child orchestrations.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@reason_option
@engine_options
def command(
    ids: tuple[str, ...],
    statuses: tuple[str, ...],
    created_from: datetime | None,
    created_to: datetime | None,
    no_recursive: bool,
    yes: bool,
    reason: str | None,
    **engine: Any,
) -> int:
    """Purge finished orchestrations, by id or by a filter. Purged instances cannot be restored.

    With a filter, the command asks for confirmation.
    """
    from bridge.app.operations.instances import FINISHED, Filter

    context = click.get_current_context()
    filtered = bool(statuses or created_from or created_to)
    if filtered == bool(ids):
        raise click.UsageError("name instances, or use a filter: --status, --created-from, --created-to", context)
    if running := [status.lower() for status in statuses if status not in FINISHED]:
        raise click.UsageError(f"only finished instances can be purged, not {', '.join(running)}", context)
    if ids:
        calls = [
            ("instances.purge", {"instance_id": one, "recursive": not no_recursive, "reason": reason}) for one in ids
        ]
        purged = sum(result["purged"] for result in operate(engine, *calls))
        click.echo(f"{plural(purged, 'instance')} purged")
        return 0
    filter_ = Filter(statuses or tuple(sorted(FINISHED)), None, created_from, created_to)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to confirm on: use --yes to purge with a filter", context)
        found = on_instances(engine, lambda instances: instances.list(filter_, payloads=False))
        if not found:
            click.echo("nothing to purge")
            return 0
        if not click.confirm(f"Remove {plural(len(found), 'instance')} permanently?", err=True):
            return 1
    selection = {
        "statuses": filter_.statuses,
        "created_from": created_from,
        "created_to": created_to,
        "recursive": not no_recursive,
        "reason": reason,
    }
    [result] = operate(engine, ("instances.purge_by", selection))
    click.echo(f"{plural(result['purged'], 'instance')} purged")
    if not result["complete"]:
        click.echo("error: the engine stopped before the end; run the command again", err=True)
    return 0 if result["complete"] else 1
