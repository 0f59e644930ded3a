"""`bridge instances`: orchestrations on an engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bridge.cli import exit_codes
from bridge.cli.command import Group
from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances, operate
from bridge.cli.options import as_message, json_option, origin, origin_options, reason_option
from bridge.cli.output import clean, compact, plural, print_fields, print_json, print_table, say
from bridge.cli.parameters import AT, DURATION, JSON, SINCE, STATUS, TAG
from bridge.core.errors import BridgeError
from bridge.system import private

if TYPE_CHECKING:
    from durabletask.history import HistoryEvent

    from bridge.app.operations.instances import Instance, Instances
    from bridge.engines.recording import Recording


_history_reason = click.option("--reason", metavar="TEXT", help="Reason, shown in the history and in the audit.")


@click.group(
    "instances",
    cls=Group,
    members={
        "list": "List instances by status, id and time.",
        "show": "Show one instance: status, payloads, failure, history.",
        "export": "Write an instance's history to a file, for replay tests.",
        "wait": "Wait until an instance has started or finished.",
        "start": "Start an orchestration.",
        "terminate": "Stop an instance at once, without compensation.",
        "raise": "Raise an event to an instance.",
        "suspend": "Pause an instance.",
        "resume": "Resume a suspended instance.",
        "restart": "Run a finished instance again with its input.",
        "rewind": "Continue a failed instance from before its failure.",
        "purge": "Remove finished instances.",
    },
    examples="""
        bridge instances list --status running --prefix order-
        bridge instances show order-1001 --history
        bridge instances wait order-1001 --timeout 2m
        bridge instances raise order-1001 payment --data '{"approved": true}'
    """,
)
def command() -> None:
    """List, show and control orchestrations on the configured engine.

    An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge instances list
        bridge instances list --status running --status suspended --prefix order-
        bridge instances list --created-from 2h --json | jq .
        bridge instances list --status failed -0 | xargs -0 -n1 bridge instances rewind
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option(
    "--status",
    "statuses",
    type=STATUS,
    multiple=True,
    metavar="STATUS",
    help="Only instances with this status; repeatable.",
)
@click.option("--prefix", metavar="TEXT", help="Only instances with this prefix of the id.")
@click.option("--created-from", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--created-to", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--completed-from", type=SINCE, metavar="TIME", help="Only finished ones; RFC 3339 or 2h.")
@click.option("--completed-to", type=SINCE, metavar="TIME", help="Only finished ones; RFC 3339 or 2h.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Number of instances, the newest first; 0 for all.",
)
@click.option("--ids", "only_ids", is_flag=True, help="Print ids only, one per line.")
@click.option(
    "-0", "--null", "separated", is_flag=True, help="Print ids only, each terminated by a null byte, for `xargs -0`."
)
@json_option
@engine_options
def list_(
    statuses: tuple[str, ...],
    prefix: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    completed_from: datetime | None,
    completed_to: datetime | None,
    limit: int,
    only_ids: bool,
    separated: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """List orchestrations, the newest first.

    With --json each has instance_id, name, status, created_at, last_updated_at, input, output, custom_status,
    failure.
    """
    from bridge.app.operations.instances import Filter

    if as_json + only_ids + separated > 1:
        raise click.UsageError("use one of --json, --ids and -0", click.get_current_context())
    filter_ = Filter(statuses, prefix, created_from, created_to, completed_from, completed_to)
    found = on_instances(engine, lambda instances: instances.list(filter_, payloads=as_json))
    shown = found[:limit] if limit else found
    if as_json:
        print_json([asdict(one) for one in shown])
    elif separated:
        _print_separated([one.instance_id for one in shown])
    elif only_ids:
        for one in shown:
            click.echo(clean(one.instance_id))
    elif not found:
        click.echo("no instances", err=True)
    else:
        print_table(
            ("INSTANCE", "NAME", "STATUS", "CREATED", "UPDATED", "CUSTOM STATUS"),
            [
                (
                    one.instance_id,
                    one.name,
                    one.status,
                    one.created_at,
                    one.last_updated_at,
                    compact(one.custom_status, 80),
                )
                for one in shown
            ],
        )
    if len(shown) < len(found):
        click.echo(f"the newest {len(shown):,} of {len(found):,}; --limit 0 shows all", err=True)


def _print_separated(ids: list[str]) -> None:
    """Print ids unchanged. Ids that no command-line argument can hold are left out and counted on standard error."""
    usable = [each for each in ids if "\0" not in each and not any("\ud800" <= one <= "\udfff" for one in each)]
    sys.stdout.buffer.write("".join(f"{each}\0" for each in usable).encode())
    if left := len(ids) - len(usable):
        click.echo(f"{left:,} omitted: their ids contain null bytes or are not Unicode; --json shows them", err=True)


@make(
    "show",
    effect="reads",
    examples="""
        bridge instances show order-1001
        bridge instances show order-1001 --history
        bridge instances show order-1001 --json | jq .output
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--history", is_flag=True, help="Show the history as a timeline.")
@json_option
@engine_options
def show(instance_id: str, history: bool, as_json: bool, **engine: Any) -> None:
    """Show an orchestration: status, input, output, custom status, failure and, on request, its history."""
    from bridge.app.operations.timeline import as_json as history_as_json

    async def look(instances: Instances) -> tuple[Instance, Sequence[HistoryEvent]]:
        return await instances.show(instance_id), await instances.history(instance_id) if history else ()

    one, events = on_instances(engine, look)
    if as_json:
        print_json(asdict(one) | ({"history": history_as_json(events)} if history else {}))
        return
    print_instance(one)
    if history:
        _print_history(events)


def print_instance(one: Instance) -> None:
    """Print an orchestration in lines."""
    from bridge.app.progress import given, progress

    failed = one.failure or {}
    saga, *steps = progress(one.custom_status) or [""]
    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.name),
            ("status", one.status),
            ("created", one.created_at),
            ("updated", one.last_updated_at),
            ("custom status", "" if saga else compact(one.custom_status)),
            ("input", compact(given(one.input))),
            ("output", compact(one.output)),
            ("failure", f"{failed['type']}: {failed['message']}" if failed else ""),
            ("saga", saga),
        )
    )
    for step in steps:
        click.echo(f"  {clean(step)}")
    for line in str(failed.get("stack_trace") or "").splitlines():
        click.echo(f"  {clean(line)}")


def _print_history(events: Sequence[HistoryEvent]) -> None:
    from bridge.app.operations.timeline import timeline

    click.echo()
    print_table(
        ("TIME", "AFTER", "EVENT", "DATA"),
        [(entry.at, f"+{entry.after:.3f}s", entry.event, compact(entry.data, 200)) for entry in timeline(events)],
    )


@make(
    "export",
    effect="reads",
    examples="""
        bridge instances export order-1001 -o tests/histories/order-paid.json
        bridge instances export order-1001 | jq .events[0]
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Output file.  [default: stdout]")
@engine_options
def export(instance_id: str, output: Path | None, **engine: Any) -> None:
    """Write the whole history of an orchestration, for replay tests with `bridge.testing.replay`.

    The file contains the instance's inputs and results unchanged. Review it before you add it to a repository.
    """

    async def look(instances: Instances) -> Recording:
        return await instances.recording(instance_id)

    document = on_instances(engine, look).to_json()
    if output is None:
        print_json(document)
        return
    try:
        with private.replacing(output) as out:
            out.write(f"{json.dumps(document, indent=1)}\n".encode())
    except OSError as error:
        raise BridgeError(f"{output} cannot be written: {error.strerror}") from error
    say(f"{instance_id}: {len(document['events'])} events written to {output}")


@make(
    "wait",
    effect="reads",
    examples="""
        bridge instances wait order-1001
        bridge instances wait order-1001 --for start --timeout 10s
    """,
    exits=EXITS
    | {
        0: "the instance has completed (or started, with --for start)",
        1: "the instance failed, was terminated or does not exist, or the time has passed",
    },
)
@click.argument("instance_id", metavar="ID")
@click.option(
    "--for",
    "until",
    type=click.Choice(["start", "completion"]),
    default="completion",
    show_default=True,
    help="Event to wait for.",
)
@click.option("--timeout", type=DURATION, default="60s", show_default=True, metavar="T", help="Longest wait.")
@json_option
@engine_options
def wait(instance_id: str, until: Literal["start", "completion"], timeout: float, as_json: bool, **engine: Any) -> int:
    """Wait until an orchestration has started or finished, and show it."""
    one = on_instances(engine, lambda instances: instances.wait(instance_id, until, timeout))
    if one is None:
        word = "started" if until == "start" else "finished"
        click.echo(f"error: {instance_id} has not {word} after {timeout:g}s", err=True)
        return exit_codes.FAILED
    if as_json:
        print_json(asdict(one))
    else:
        print_instance(one)
    wrong = until == "completion" and one.status != "COMPLETED"
    return exit_codes.FAILED if wrong else exit_codes.OK


@make(
    "start",
    effect="changes",
    examples="""
        bridge instances start order_saga --id order-1001 --input @order.json
        bridge instances start cleanup --delay 1h --tag by=operations
        id=$(bridge instances start cleanup) && bridge instances wait "$id"
        bridge instances start cleanup --message-id nightly-2030-01-31     # in a script that may run twice
    """,
    exits=EXITS
    | {0: "the engine has accepted the start; the id is printed", 1: "the engine refused, or the id is in use"},
)
@click.argument("orchestration")
@click.option("--input", "input_", type=JSON, metavar="JSON|@FILE", help="Input.")
@click.option("--id", "instance_id", metavar="ID", help="Instance id.  [default: random]")
@click.option("--at", "start_at", type=AT, metavar="TIME", help="RFC 3339 time of the first turn.")
@click.option("--delay", type=DURATION, metavar="T", help="Duration until the first turn.")
@click.option("--version", metavar="V", help="Version of the orchestrator.")
@click.option("--tag", "tags", type=TAG, multiple=True, metavar="K=V", help="Tag of the instance; repeatable.")
@origin_options
@json_option
@reason_option
@engine_options
def start(
    orchestration: str,
    input_: Any,
    instance_id: str | None,
    start_at: datetime | None,
    delay: float | None,
    version: str | None,
    tags: tuple[tuple[str, str], ...],
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **engine: Any,
) -> None:
    """Start an orchestration by its name, and print the instance's id.

    A second start with the same --message-id has no effect and succeeds. With --json: instance_id, message_id, and
    repeated.
    """
    if start_at is not None and delay is not None:
        raise click.UsageError("use either --at or --delay", click.get_current_context())
    message = origin(message_id, bare, "bridge instances start")
    given = {
        "orchestration": orchestration,
        "input": input_,
        "instance_id": instance_id,
        "start_at": start_at,
        "delay": delay,
        "version": version,
        "tags": dict(tags),
        "reason": reason,
    }
    [result] = operate(engine, ("instances.start", given | as_message(message)))
    if as_json:
        print_json(result)
        return
    if result["repeated"]:
        click.echo("this message started the instance before", err=True)
    say(result["instance_id"])


@make(
    "terminate",
    effect="changes",
    examples="""
        bridge instances terminate order-1001
        bridge instances terminate order-1001 --output '{"reason": "fraud"}' --no-recursive
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--output", type=JSON, metavar="JSON|@FILE", help="Output of the instance.")
@click.option("--no-recursive", is_flag=True, help="Leave its child orchestrations running.")
@reason_option
@engine_options
def terminate(instance_id: str, output: Any, no_recursive: bool, reason: str | None, **engine: Any) -> None:
    """Stop an orchestration at once, without compensation. To let it clean up, raise its cancel event instead."""
    given = {"instance_id": instance_id, "output": output, "recursive": not no_recursive, "reason": reason}
    operate(engine, ("instances.terminate", given))
    say(f"{instance_id}: termination requested")


@make(
    "raise",
    effect="changes",
    examples="""
        bridge instances raise order-1001 payment --data '{"approved": true}'
        bridge instances raise order-1001 cancel --data '{"reason": "customer asked"}'
        bridge instances raise order-1001 payment --data @payment.json --message-id payment-77
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.argument("event")
@click.option("--data", type=JSON, metavar="JSON|@FILE", help="Data of the event.")
@origin_options
@json_option
@reason_option
@engine_options
def raise_(
    instance_id: str,
    event: str,
    data: Any,
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **engine: Any,
) -> None:
    """Raise an event to an orchestration.

    An orchestration that waits through an inbox drops a second event with the same --message-id. If the orchestration
    has finished and received the event before, the command succeeds. With --json: instance_id, event, message_id, and
    repeated.
    """
    message = origin(message_id, bare, "bridge instances raise")
    given = {"instance_id": instance_id, "event": event, "data": data, "reason": reason}
    [result] = operate(engine, ("instances.raise", given | as_message(message)))
    if as_json:
        print_json(result)
    else:
        say(f"{instance_id}: {event} {'was raised by this message before' if result['repeated'] else 'raised'}")


@make(
    "suspend",
    effect="changes",
    examples='bridge instances suspend order-1001 --reason "waiting for the customer"',
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@_history_reason
@engine_options
def suspend(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Pause an orchestration: it keeps arriving events and processes none of them."""
    operate(engine, ("instances.suspend", {"instance_id": instance_id, "reason": reason}))
    say(f"{instance_id}: suspended")


@make(
    "resume",
    effect="changes",
    examples='bridge instances resume order-1001 --reason "the customer called"',
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@_history_reason
@engine_options
def resume(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Resume a suspended orchestration."""
    operate(engine, ("instances.resume", {"instance_id": instance_id, "reason": reason}))
    say(f"{instance_id}: resumed")


@make(
    "restart",
    effect="changes",
    examples="""
        bridge instances restart order-1001
        bridge instances restart order-1001 --new-id
    """,
    exits=EXITS | {0: "the engine has accepted the restart; the id of the new run is printed"},
)
@click.argument("instance_id", metavar="ID")
@click.option("--new-id", is_flag=True, help="Keep the old instance, and start the new one with a random id.")
@reason_option
@engine_options
def restart(instance_id: str, new_id: bool, reason: str | None, **engine: Any) -> None:
    """Run a finished orchestration again with the same input, and print its new instance id."""
    given = {"instance_id": instance_id, "new_id": new_id, "reason": reason}
    [result] = operate(engine, ("instances.restart", given))
    say(result["instance_id"])


@make(
    "rewind",
    effect="changes",
    examples='bridge instances rewind order-1001 --reason "the carrier is back"',
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@_history_reason
@engine_options
def rewind(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Continue a failed orchestration from before its failure. Successful work is not repeated."""
    operate(engine, ("instances.rewind", {"instance_id": instance_id, "reason": reason}))
    say(f"{instance_id}: rewind requested")


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
def purge(
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


for each in (list_, show, export, wait, start, terminate, raise_, suspend, resume, restart, rewind, purge):
    command.add_command(each)
