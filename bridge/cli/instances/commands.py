"""`bridge instances`: orchestrations on an engine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click

from bridge.cli.instances.check import check
from bridge.cli.instances.listing import list_
from bridge.cli.instances.views import Shown, document, instance_of, print_history, print_instance, shown, with_causes
from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate, operate_each
from bridge.cli.shared.jobs import BULK_EXITS, bulk, filter_options, form_option, is_bulk, split
from bridge.cli.shared.options import PATH, as_message, json_option, origin, origin_options, reason_option
from bridge.cli.shared.output import print_json, say
from bridge.cli.shared.parameters import AT, DURATION, JSON, SINCE, STATUS, TAG
from bridge.cli.shared.several import (
    ids_argument,
    is_one,
    on_each,
    optional_ids_argument,
    print_errors,
    read_ids,
)
from bridge.core.errors import BridgeError, ConfigError, EngineOutage
from bridge.core.words import plural
from bridge.system import private

_history_reason = click.option("--reason", metavar="TEXT", help="Reason, shown in the history and in the audit.")


@click.group(
    "instances",
    cls=BridgeGroup,
    members={
        "list": "List or count instances by status, name, saga outcome, tag and age.",
        "show": "Show instances: status, payloads, failure, history.",
        "check": "Replay running instances through new workflow code.",
        "export": "Write an instance's history to a file, for replay tests.",
        "wait": "Wait until instances have started or finished.",
        "start": "Start an orchestration.",
        "terminate": "Stop instances at once, without compensation.",
        "raise": "Raise an event to an instance.",
        "suspend": "Pause instances.",
        "resume": "Resume suspended instances.",
        "restart": "Run finished instances again with their inputs.",
        "rewind": "Continue failed instances from before their failure.",
        "purge": "Remove finished instances.",
    },
    examples="""
        bridge instances list --status running --prefix order-
        bridge instances list --outcome compensated --newer 1d
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
    "show",
    effect="reads",
    examples="""
        bridge instances show order-1001
        bridge instances show order-1001 --history
        bridge instances show order-1001 --svg > order-1001.svg
        bridge instances show order-1001 --json | jq .output
        bridge instances list --status failed --ids | bridge instances show -
    """,
    exits=EXITS | {1: "one of the instances does not exist"},
)
@ids_argument
@click.option("--history", is_flag=True, help="Show the history as a timeline.")
@click.option("--svg", "as_svg", is_flag=True, help="Print a picture of the timeline of one instance, for reports.")
@json_option
@engine_options
def show(ids: tuple[str, ...], separated: bool, history: bool, as_svg: bool, as_json: bool, **engine: Any) -> int:
    """Show orchestrations: status, input, output, custom status, failure and, on request, history.

    A failure begins with the place in your code that raised it, also if that is in an activity or in a child. Frames of
    the bridge and of the SDK come last.
    """
    names = read_ids(ids, separated)
    if as_svg:
        if as_json or history or len(names) != 1:
            raise click.UsageError("--svg draws one instance, without --history and --json")
        return _draw(engine, names)
    wanted = ("instances.history" if as_json else "instances.timeline") if history else None
    results = shown(engine, names, wanted)
    _print_shown([result for result in results if isinstance(result, Shown)], ids, as_json=as_json)
    return print_errors(names, results)


def _print_shown(found: Sequence[Shown], ids: Sequence[str], *, as_json: bool) -> None:
    """Print instances. ids: as the command line names them."""
    if as_json:
        documents = [document(one) | ({} if one.history is None else {"history": one.history}) for one in found]
        if documents or not is_one(ids):
            print_json(documents[0] if is_one(ids) else documents)
        return
    for position, one in enumerate(found):
        if position:
            click.echo()
        print_instance(one)
        if one.history is not None:
            print_history(one.history)


def _draw(engine: dict[str, Any], names: Sequence[str]) -> int:
    from bridge.app.operations.instances.timeline_svg import timeline_svg

    results = shown(engine, names, "instances.history")
    for one in results:
        if isinstance(one, Shown):
            drawn = timeline_svg(one.instance, one.history or ())
            if drawn is None:
                raise BridgeError(f"instance {one.instance.instance_id!r} has no history yet")
            click.echo(drawn, nl=False)
    return print_errors(names, results)


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
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Output file.  [default: stdout]")
@engine_options
def export(instance_id: str, output: Path | None, **engine: Any) -> None:
    """Write the whole history of an orchestration, for replay tests with `bridge.testing.replay`.

    The file contains the instance's inputs and results unchanged. Review it before you add it to a repository.
    """

    [document] = operate(engine, ("instances.recording", {"instance_id": instance_id}))
    if output is None:
        print_json(document)
        return
    try:
        with private.replacing(output) as out:
            out.write(f"{json.dumps(document, indent=1)}\n".encode())
    except OSError as error:
        raise BridgeError(f"{output} cannot be written: {error.strerror}") from error
    events = plural(len(document["events"]), "event")
    say(f"{instance_id}: {events} written to {output}")


@make(
    "wait",
    effect="reads",
    examples="""
        bridge instances wait order-1001
        bridge instances wait order-1001 --for start --timeout 10s
        bridge instances wait order-1001 order-1002 --timeout 2m
    """,
    exits=EXITS
    | {
        0: "all instances have completed (or started, with --for start)",
        1: "an instance failed, was terminated or does not exist, or the time has passed",
    },
)
@ids_argument
@click.option(
    "--for",
    "until",
    type=click.Choice(["start", "completion"]),
    default="completion",
    show_default=True,
    help="Wait for the start or the completion.",
)
@click.option("--timeout", type=DURATION, default="60s", show_default=True, metavar="T", help="Longest wait for all.")
@json_option
@engine_options
def wait(
    ids: tuple[str, ...],
    separated: bool,
    until: Literal["start", "completion"],
    timeout: float,
    as_json: bool,
    **engine: Any,
) -> int:
    """Wait until orchestrations have started or finished, and show them."""
    names = read_ids(ids, separated)
    results = with_causes(engine, _waited(engine, names, until, time.monotonic() + timeout))
    found = [result for result in results if isinstance(result, Shown)]
    _print_shown(found, ids, as_json=as_json)
    for name, result in zip(names, results, strict=False):
        if result is None:
            word = "started" if until == "start" else "finished"
            say(f"error: {name} has not {word} after {timeout:g}s", err=True)
    wrong = None in results or any(until == "completion" and one.instance.status != "COMPLETED" for one in found)
    return max(print_errors(names, results), exit_codes.FAILED if wrong else exit_codes.OK)


def _waited(engine: dict[str, Any], names: Sequence[str], until: str, end: float) -> list[Any]:
    """Instances, None for those that are late, or errors. An outage ends the list. end: on the monotonic clock."""
    from bridge.app.operations.instances.reads import MAX_WAIT

    found: list[Any] = []
    for name in names:
        while True:
            seconds = min(MAX_WAIT, max(0.0, end - time.monotonic()))
            [one] = operate_each(
                engine, [("instances.wait", {"instance_id": name, "until": until, "seconds": seconds})]
            )
            if one is not None or time.monotonic() >= end:
                break
        found.append(one if one is None or isinstance(one, BridgeError) else instance_of(one))
        if isinstance(one, EngineOutage | ConfigError):
            break
    return found


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
@click.option("--id", "instance_id", metavar="ID", help="Instance id.  [default: derived from --message-id, or random]")
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
    if engine["remote"] is None:
        _warn_of_unknown(engine, orchestration)
    if as_json:
        print_json(result)
        return
    if result["repeated"]:
        click.echo("this message started the instance before", err=True)
    say(result["instance_id"])


def _warn_of_unknown(engine: dict[str, Any], orchestration: str) -> None:
    """Write a warning if no worker of the configuration has an orchestration."""
    from bridge.app.check.workflows import unknown_orchestration
    from bridge.app.composition import load_config

    what = unknown_orchestration(load_config(engine["config"], engine["overlay"]), orchestration)
    if what is not None:
        say(f"warning: {what}", err=True)


@make(
    "terminate",
    effect="changes",
    examples="""
        bridge instances terminate order-1001
        bridge instances terminate order-1001 --output '{"reason": "fraud"}' --no-recursive
        bridge instances terminate --orchestration import --older 2d --dry-run
        bridge instances terminate --orchestration import --where "tags.tenant == 'a'" --ramp 1,10,100 --yes --watch
    """,
    exits=EXITS | BULK_EXITS,
)
@optional_ids_argument
@click.option("--output", type=JSON, metavar="JSON|@FILE", help="Output of the instance.")
@click.option("--no-recursive", is_flag=True, help="Leave its child orchestrations running.")
@filter_options
@form_option
@reason_option
@engine_options
def terminate(
    ids: tuple[str, ...], separated: bool, output: Any, no_recursive: bool, reason: str | None, **options: Any
) -> int:
    """Stop orchestrations at once, without compensation. To compensate, raise their cancel event instead.

    With a filter instead of ids, the engine works on the instances as a job (`bridge jobs`).
    """
    chosen, engine = split(options)
    given = {"output": output, "recursive": not no_recursive}
    if is_bulk(ids, chosen):
        return bulk(engine, "terminate", chosen, reason, given)
    return on_each(
        engine, "instances.terminate", ids, separated, given | {"reason": reason},
        lambda name, _: f"{name}: termination requested",
    )  # fmt: skip


@make(
    "raise",
    effect="changes",
    examples="""
        bridge instances raise order-1001 payment --data '{"approved": true}'
        bridge instances raise order-1001 cancel --data '{"reason": "customer asked"}'
        bridge instances raise order-1001 payment --data @payment.json --message-id payment-77
        bridge instances raise cancel --orchestration order_saga --older 2d --rate 10/s --yes
    """,
    exits=EXITS | BULK_EXITS,
)
@click.argument("instance_id", metavar="[ID]")
@click.argument("event", required=False, metavar="EVENT")
@click.option("--data", type=JSON, metavar="JSON|@FILE", help="Data of the event.")
@origin_options
@json_option
@filter_options
@reason_option
@engine_options
def raise_(
    instance_id: str,
    event: str | None,
    data: Any,
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **options: Any,
) -> int:
    """Raise an event to an orchestration.

    An orchestration that waits through an inbox drops a second event with the same --message-id. If the orchestration
    has finished and received the event before, the command succeeds. With --json: instance_id, event, message_id, and
    repeated.

    With a filter instead of an id, the engine raises the event to the instances as a job (`bridge jobs`). Each event
    has a message id of its own.
    """
    chosen, engine = split(options)
    context = click.get_current_context()
    if is_bulk(() if event is None else (instance_id,), chosen):
        if message_id is not None or bare:
            raise click.UsageError("with a filter, use neither --message-id nor --bare", context)
        chosen["form"] = "json" if as_json else "table"
        return bulk(engine, "raise", chosen, reason, {"event": instance_id, "data": data})  # the only argument
    message = origin(message_id, bare, "bridge instances raise")
    given = {"instance_id": instance_id, "event": event, "data": data, "reason": reason}
    [result] = operate(engine, ("instances.raise", given | as_message(message)))
    if as_json:
        print_json(result)
    else:
        say(f"{instance_id}: {event} {'was raised by this message before' if result['repeated'] else 'raised'}")
    return exit_codes.OK


@make(
    "suspend",
    effect="changes",
    examples="""
        bridge instances suspend order-1001 --reason "waiting for the customer"
        bridge instances suspend --orchestration order_saga --tag country=de --yes
    """,
    exits=EXITS | BULK_EXITS,
)
@optional_ids_argument
@filter_options
@form_option
@_history_reason
@engine_options
def suspend(ids: tuple[str, ...], separated: bool, reason: str | None, **options: Any) -> int:
    """Pause orchestrations. They store arriving events, and process them after `bridge instances resume`.

    With a filter instead of ids, the engine works on the instances as a job (`bridge jobs`).
    """
    return _each_or_bulk("suspend", ids, separated, reason, options, "suspended")


@make(
    "resume",
    effect="changes",
    examples="""
        bridge instances resume order-1001 --reason "the customer called"
        bridge instances resume --all --rate 20/s --yes
    """,
    exits=EXITS | BULK_EXITS,
)
@optional_ids_argument
@filter_options
@form_option
@_history_reason
@engine_options
def resume(ids: tuple[str, ...], separated: bool, reason: str | None, **options: Any) -> int:
    """Resume suspended orchestrations.

    With a filter instead of ids, the engine works on the instances as a job (`bridge jobs`).
    """
    return _each_or_bulk("resume", ids, separated, reason, options, "resumed")


@make(
    "restart",
    effect="changes",
    examples="""
        bridge instances restart order-1001
        bridge instances restart order-1001 --new-id
        bridge instances restart --orchestration import --status failed --since 2h --yes --watch
    """,
    exits=EXITS | BULK_EXITS | {0: "the engine has accepted the restart; the id of each new run, or job, is printed"},
)
@optional_ids_argument
@click.option("--new-id", is_flag=True, help="Keep the old instance, and start the new one with a random id.")
@filter_options
@form_option
@reason_option
@engine_options
def restart(ids: tuple[str, ...], separated: bool, new_id: bool, reason: str | None, **options: Any) -> int:
    """Run finished orchestrations again with the same input, and print their new instance ids.

    With a filter instead of ids, the engine works on the instances as a job (`bridge jobs`), under their ids.
    """
    chosen, engine = split(options)
    if is_bulk(ids, chosen):
        if new_id:
            raise click.UsageError("--new-id needs ids, not a filter", click.get_current_context())
        return bulk(engine, "restart", chosen, reason, {})
    given = {"new_id": new_id, "reason": reason}
    return on_each(engine, "instances.restart", ids, separated, given, lambda _, result: str(result["instance_id"]))


@make(
    "rewind",
    effect="changes",
    examples="""
        bridge instances rewind order-1001 --reason "the carrier is back"
        bridge instances list --status failed --newer 1h --ids | bridge instances rewind -
        bridge instances rewind --orchestration order_saga --since 1h --ramp 1,10,100 --yes --watch
    """,
    exits=EXITS | BULK_EXITS,
)
@optional_ids_argument
@filter_options
@form_option
@_history_reason
@engine_options
def rewind(ids: tuple[str, ...], separated: bool, reason: str | None, **options: Any) -> int:
    """Continue failed orchestrations from before their failure. Successful work is not repeated.

    With a filter instead of ids, the engine works on the instances as a job (`bridge jobs`).
    """
    return _each_or_bulk("rewind", ids, separated, reason, options, "rewind requested")


def _each_or_bulk(
    action: str, ids: tuple[str, ...], separated: bool, reason: str | None, options: dict[str, Any], done: str
) -> int:
    chosen, engine = split(options)
    if is_bulk(ids, chosen):
        return bulk(engine, action, chosen, reason, {})
    return on_each(engine, f"instances.{action}", ids, separated, {"reason": reason}, lambda name, _: f"{name}: {done}")


@make(
    "purge",
    effect="changes",
    examples="""
        bridge instances purge order-1001
        bridge instances purge --status completed --older 7d
        bridge instances purge --status terminated --yes
    """,
    exits=EXITS | {1: "no such instance, the instance has not finished, or the question was declined"},
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("-0", "--null", "separated", is_flag=True, help="Ids on standard input end with null bytes.")
@click.option(
    "--status",
    "statuses",
    type=STATUS,
    multiple=True,
    metavar="STATUS",
    help="Only this status: completed, failed or terminated; repeatable.",
)
@click.option(
    "--created-from",
    "--newer",
    "created_from",
    type=SINCE,
    metavar="TIME",
    help="Only created since: RFC 3339, or 2h for two hours ago.",
)
@click.option(
    "--created-to",
    "--created-before",
    "--older",
    "created_to",
    type=SINCE,
    metavar="TIME",
    help="Only created before: RFC 3339, or 2h for two hours ago.",
)
@click.option("--no-recursive", is_flag=True, help="Keep their child orchestrations.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@reason_option
@engine_options
def purge(
    ids: tuple[str, ...],
    separated: bool,
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
    from bridge.app.operations.instances.instances import FINISHED

    context = click.get_current_context()
    filtered = bool(statuses or created_from or created_to)
    if filtered == bool(ids):
        raise click.UsageError("name instances, or use a filter: --status, --created-from, --created-to", context)
    if running := [status.lower() for status in statuses if status not in FINISHED]:
        raise click.UsageError(f"only finished instances can be purged, not {', '.join(running)}", context)
    if ids:
        names = read_ids(ids, separated)
        given = {"recursive": not no_recursive, "reason": reason}
        results = operate_each(engine, [("instances.purge", {"instance_id": one, **given}) for one in names])
        purged = [result["purged"] for result in results if not isinstance(result, BridgeError)]
        if purged:
            click.echo(f"{plural(sum(purged), 'instance')} purged")
        return print_errors(names, results)
    statuses = statuses or tuple(sorted(FINISHED))
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to confirm on: use --yes to purge with a filter", context)
        filter_ = {"statuses": statuses, "created_from": created_from, "created_to": created_to, "limit": 1}
        [found] = operate(engine, ("instances.list", filter_))
        if not found["all"]:
            click.echo("nothing to purge")
            return 0
        if not click.confirm(f"Remove {plural(found['all'], 'instance')} permanently?", err=True):
            return 1
    selection = {
        "statuses": statuses,
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


for each in (list_, show, check, export, wait, start, terminate, raise_, suspend, resume, restart, rewind, purge):
    command.add_command(each)
