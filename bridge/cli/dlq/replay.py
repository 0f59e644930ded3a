"""`bridge dlq replay` and `bridge dlq edit`: dead letters back into the running daemon."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.dlq.selection import (
    TABLE_WITH_READS,
    filter_options,
    own_check,
    print_report,
    remote_check,
    remote_count,
    require_filter,
    selection_of,
    submit_jobs,
)
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import engine_names, operate, require_table
from bridge.cli.shared.options import config_options, json_option, reason_option
from bridge.cli.shared.output import print_json, say
from bridge.cli.shared.parameters import DURATION
from bridge.cli.shared.remote import remote_options
from bridge.cli.shared.several import read_ids
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.dead_letters.editing import JsonBody
    from bridge.app.dead_letters.reading import DeadLetterSelection, FoundDeadLetter
    from bridge.app.remote import DaemonAddress
    from bridge.config.source import Loaded

T = TypeVar("T")

_EXITS = {
    0: "the job was submitted, or the dry run found nothing that would fail again",
    1: "no open dead letter is selected, or the dry run found some that would fail again",
    3: "the configuration is not valid, or a broker or engine does not answer (is the daemon running?)",
}


def _ramp(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        return ()
    parts = value.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} must be numbers from 1, separated by commas, like 1,10,100")
    return tuple(map(int, parts))


@make(
    "replay",
    effect="changes",
    examples="""
        bridge dlq replay --cause 3f1c09a2b7de --dry-run
        bridge dlq replay --cause 3f1c09a2b7de --ramp 1,10,100 --reason "rule fixed"
        bridge dlq replay orders --since 2h --rate 50
        bridge dlq list --json | jq -r '.[].id' | bridge dlq replay --id - --yes
    """,
    exits=_EXITS,
)
@filter_options
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this id; repeatable. `-` reads ids from a pipe.")
@click.option("-0", "--null", "separated", is_flag=True, help="Ids on standard input end with null bytes.")
@click.option("--all", "all_", is_flag=True, help="Replay all open dead letters; required without a filter.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Replay at most N dead letters.")
@click.option(
    "--dry-run", is_flag=True, help="Show the outcomes that they would have, as `bridge dlq check`, and change nothing."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Most dead letters per second.  [default: no limit]",
)
@click.option(
    "--ramp",
    callback=_ramp,
    metavar="N,N,…",
    help="Sizes of the first steps, like 1,10,100. A step begins when the one before has ended.",
)
@click.option(
    "--stop-after-failures",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop when N dead letters have failed again.  [default: 1 with --ramp, else never]",
)
@click.option(
    "--follow",
    type=DURATION,
    default="1h",
    show_default=True,
    help="Time to follow messages that become early or quarantined.",
)
@click.option("--force", is_flag=True, help="Also replay messages whose replays failed `limits.max_replays` times.")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@remote_options
@config_options
def replay(
    ids: tuple[str, ...],
    separated: bool,
    all_: bool,
    limit: int | None,
    dry_run: bool,
    ramp: tuple[int, ...],
    stop_after_failures: int | None,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Bring dead letters back into the running daemon, as durable jobs.

    The daemon that has the key of a message now executes it, after the messages of the key in flight. The message keeps
    its identity, and the replay skips rules that were executed before the failure. Nothing is written to the topic of
    the source. The replayed messages of a key keep the order of their first receipt.

    The job does not touch later dead letters. `bridge jobs watch` shows the progress and the results.
    """
    names = tuple(read_ids(ids, separated)) if ids else ()
    require_filter(chosen, names, all_)
    selection = selection_of({**chosen, "states": ("open",)}, names)
    if dry_run:
        return _dry_run({**chosen, "states": ("open",)}, selection, limit, as_json)
    given = {
        "limit": limit,
        "all": all_,
        "force": chosen["force"],
        "rate": chosen["rate"],
        "ramp": ramp,
        "stop_after_failures": stop_after_failures if stop_after_failures is not None or not ramp else 1,
        "follow": chosen["follow"],
        "reason": chosen["reason"],
    }
    return _replay(chosen, selection, given, yes, as_json)


def _loaded(options: Mapping[str, Any]) -> Loaded:
    from bridge.app.composition import load_config

    return load_config(options["config"], options["overlay"])


def _dry_run(options: dict[str, Any], selection: DeadLetterSelection, limit: int | None, as_json: bool) -> int:
    if options["remote"] is not None:
        report = remote_check(options["remote"], options, selection.ids, limit, replays=True)
    else:
        loaded = _loaded(options)
        report = own_check(loaded, loaded, selection, limit=limit)
    if as_json:
        print_json(report)
    elif report["total"]:
        print_report(report, offline=False)
    else:
        say("no open dead letter is selected", err=True)
    return 1 if report["failing"] or not report["total"] else 0


def _replay(
    options: dict[str, Any], selection: DeadLetterSelection, given: dict[str, Any], yes: bool, as_json: bool
) -> int:
    from bridge.app.audit import refused
    from bridge.app.operations.dead_letters.batches import select
    from bridge.app.operations.dead_letters.replays import ReplayBatch
    from bridge.core.errors import InstanceNotFound

    loaded = None if options["remote"] is not None else _loaded(options)
    with nullcontext() if loaded is None else refused(loaded, "dlq.replay", "*", given["reason"]):
        if loaded is None:
            chosen = {**options, "states": ("open",)}
            count = remote_count(options["remote"], chosen, selection.ids, given["limit"], replays=True)
            engines = engine_names(options)
        else:
            found = asyncio.run(select(loaded, selection, ReplayBatch, given["limit"]))
            count, engines = found.count, found.engines
            given = given | {"ends": found.ends}
            if found.foreign:
                what = plural(found.foreign, "dead letter")
                say(f"{what} of sources that are not configured here are left out", err=True)
        if not count:
            raise InstanceNotFound("no open dead letter is selected. Next: bridge dlq groups")
    if not yes and not click.confirm(f"Replay {plural(count, 'dead letter')}?", err=True):
        return 1
    return submit_jobs(options, "dlq.replay", engines, selection, given, "replays", as_json)


@make(
    "edit",
    effect="changes",
    examples="""
        bridge dlq edit orders.dlq/0@12
        bridge dlq edit orders.dlq/0@12 --set payload.total=12.5 --set payload.currency=EUR
        bridge dlq edit orders.dlq/0@12 --patch fix.json --reason "typing error" --yes
    """,
    exits=_EXITS,
)
@click.argument("id_", metavar="ID")
@click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Set a member of the payload; repeatable."
)
@click.option(
    "--patch",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Apply a patch to the payload: RFC 6902 (a list of operations) or RFC 7396 (an object).",
)
@click.option("--dry-run", is_flag=True, help="Show the outcome that the message would have, and change nothing.")
@click.option("--force", is_flag=True, help="Replay the message although it would fail, or has failed too often.")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote_options
@config_options
def edit(
    id_: str,
    assignments: tuple[str, ...],
    patch: Path | None,
    dry_run: bool,
    force: bool,
    reason: str | None,
    yes: bool,
    **options: Any,
) -> int:
    """Correct the payload of an open dead letter, and replay it.

    Without --set and --patch, your editor ($VISUAL, $EDITOR) opens the payload. The command first decodes and routes
    the edited message, with the schema and the rules, and does not replay a message that would fail. The message keeps
    its identity; the header `bridge.edited-from` names the dead letter. The payload must be JSON.
    """
    if options["remote"] is not None:
        require_table({**options, "engine": None}, TABLE_WITH_READS, "dlq edit")
        dead_letter: _OwnDeadLetter | _RemoteDeadLetter = _RemoteDeadLetter(options["remote"], id_)
    else:
        dead_letter = _OwnDeadLetter(_loaded(options), id_)
    with nullcontext() if dry_run else dead_letter.refused(reason):
        document = _edited(dead_letter.read(), assignments, patch)
        if document is None:
            say("nothing was changed; nothing is replayed", err=True)
            return 1
        would, detail, fails = dead_letter.verdict(document)
    say(f"would: {would}" + (f" ({detail})" if detail else ""), err=True)
    if dry_run or (fails and not force):
        return 1 if fails else 0
    if not yes and not click.confirm(f"Replay {dead_letter.id} with this payload?", err=True):
        return 1
    job = dead_letter.submit(document, {"force": force, "reason": reason})
    say(f"job {job} replays {dead_letter.id}. Next: bridge jobs watch {job}")
    return 0


class _OwnDeadLetter:
    """Dead letter that is edited with the configuration of this machine. id: its id, after `read`."""

    def __init__(self, loaded: Loaded, id_: str) -> None:
        self._loaded = loaded
        self._found: FoundDeadLetter | None = None
        self.id = id_

    def refused(self, reason: str | None) -> AbstractContextManager[None]:
        """Leave an audit line of an edit that fails before its operation."""
        from bridge.app.audit import refused

        return refused(self._loaded, "dlq.edit", self.id, reason)

    def read(self) -> JsonBody:
        """Read the document. Raises: InstanceNotFound, InvalidCommand."""
        from bridge.app.dead_letters.editing import JsonBody, is_cloud_event

        self._found = _one(self._loaded, self.id)
        self.id = self._found.dead_letter.id
        return JsonBody.of(self._found.message.body, is_cloud_event(self._loaded, self._found))

    def verdict(self, document: JsonBody) -> tuple[str, str | None, bool]:
        """Outcome of the edited message in words, its detail, and True if it would be dead-lettered."""
        from dataclasses import replace

        from bridge.app.dead_letters.check import expected
        from bridge.core.states import Outcome

        assert self._found is not None
        message = replace(self._found.message, body=document.body)
        found = asyncio.run(expected(self._loaded, self._found.dead_letter, message, self._owner))
        return found.text, found.detail, found.outcome is Outcome.DEAD_LETTERED

    def submit(self, document: JsonBody, given: dict[str, Any]) -> str:
        """Submit the replay; return the id of its job."""
        from bridge.app.serve.control import operate
        from bridge.config.source import state_engine

        engine = state_engine(self._loaded, self._owner)
        [job] = asyncio.run(operate(self._loaded, engine, [("dlq.edit", _parameters(self.id, document, given))]))
        return str(job["job"])

    @property
    def _owner(self) -> str:
        assert self._found is not None
        return self._found.place.owner(self._found.dead_letter.source)


class _RemoteDeadLetter:
    """Dead letter that is edited through a remote daemon, which reads its payload; as `_OwnDeadLetter`."""

    def __init__(self, remote: DaemonAddress, id_: str) -> None:
        self._options: dict[str, Any] = {"remote": remote, "engine": None}
        self.id = id_

    def refused(self, reason: str | None) -> AbstractContextManager[None]:
        return nullcontext()

    def read(self) -> JsonBody:
        from bridge.app.dead_letters.editing import JsonBody

        [rows] = operate(self._options, ("dlq.show", {"id": self.id, "payload": True}))
        facts = _only(self.id, [each for each in rows if each["state"] == "open"], lambda each: str(each["id"]))
        self.id = facts["id"]
        body = facts["body"]
        return JsonBody.of(None if body is None else body.encode(), facts["is_cloud_event"])

    def verdict(self, document: JsonBody) -> tuple[str, str | None, bool]:
        [found] = operate(self._options, ("dlq.edit", _parameters(self.id, document, {"dry_run": True})))
        return found["would"], found["detail"], found["fails"]

    def submit(self, document: JsonBody, given: dict[str, Any]) -> str:
        [job] = operate(self._options, ("dlq.edit", _parameters(self.id, document, given)))
        return str(job["job"])


def _parameters(id_: str, document: JsonBody, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "id": id_, "body": base64.b64encode(document.body).decode()}


def _one(loaded: Loaded, id_: str) -> FoundDeadLetter:
    from bridge.app.dead_letters.reading import DeadLetterSelection, visited
    from bridge.dead_letters.state_machine import DeadLetterState

    async def read() -> list[FoundDeadLetter]:
        selection = DeadLetterSelection(ids=(id_,), states=frozenset({DeadLetterState.OPEN}))
        return [each async for each in visited(loaded, selection)]

    return _only(id_, asyncio.run(read()), lambda each: each.dead_letter.id)


def _only(id_: str, found: Sequence[T], name: Callable[[T], str]) -> T:
    """The only open dead letter. Raises: InstanceNotFound, UsageError."""
    from bridge.core.errors import InstanceNotFound

    if not found:
        raise InstanceNotFound(f"there is no open dead letter {id_!r}; `bridge dlq show` tells its state")
    if len(found) > 1:
        ids = ", ".join(map(name, found[:5]))
        raise click.UsageError(f"{id_!r} names {len(found)} dead letters ({ids}); give one of these ids")
    return found[0]


def _edited(document: JsonBody, assignments: tuple[str, ...], patch: Path | None) -> JsonBody | None:
    """Edited document; None if a person has changed nothing in the editor."""
    if not assignments and patch is None:
        text = click.edit(document.payload_text(), extension=".json")
        return None if text is None else document.with_payload_text(text)
    if patch is not None:
        document = document.patched(patch.read_bytes())
    for each in assignments:
        document = document.set(each)
    return document
