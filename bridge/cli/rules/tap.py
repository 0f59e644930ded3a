"""`bridge tap`: live messages with the decisions of the rules."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, output_option
from bridge.cli.shared.output import clean, local_time, say
from bridge.cli.shared.parameters import PAUSE, RATE
from bridge.cli.shared.remote import remotes_options
from bridge.core.states import Outcome
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress
    from bridge.app.tap import TapReader

REPORT_SECONDS = 10.0
"""Least seconds between two notes about messages that were not shown."""

_COMMANDS = {
    "ScheduleOrchestration": "start {orchestration} {instance_id}",
    "StartOrRaise": "start {orchestration} or raise {event} {instance_id}",
    "RaiseEvent": "raise {name} {instance_id}",
    "Cancel": "cancel {instance_id}",
    "Terminate": "terminate {instance_id}",
    "Suspend": "suspend {instance_id}",
    "Resume": "resume {instance_id}",
    "SignalEntity": "signal {entity}@{key} {operation}",
}
_COLUMNS = (("TIME", 12), ("DAEMON", 7), ("SOURCE", 12), ("POSITION", 14), ("OUTCOME", 13), ("ROUTE", 16), ("MS", 7))


@make(
    "tap",
    effect="reads",
    examples="""
        bridge tap                                              # a sample of everything, until Ctrl-C
        bridge tap --source orders --outcome dead_lettered
        bridge tap --where 'payload.total > 100.0' --payload
        bridge tap --route start-order --rate 5/s --for 1m
        bridge tap --limit 20 --payload -o json | jq -c .message
    """,
    exits={
        0: "stopped by Ctrl-C, by --for or after --limit messages",
        3: "the configuration is not valid, or no daemon answered within --for",
    },
)
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source; repeatable.")
@click.option("--route", "routes", multiple=True, metavar="NAME", help="Only this route; repeatable.")
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice([str(each) for each in Outcome]),
    multiple=True,
    help="Only this outcome; repeatable.",
)
@click.option("--where", metavar="CEL", help="Only messages for which this condition is true, as `when` of a rule.")
@click.option(
    "--rate",
    type=RATE,
    default="20/s",
    show_default=True,
    metavar="N/s",
    help="Maximum rate of messages of each daemon, at most 1000/s. Further messages are counted.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after this number of messages.")
@click.option("--for", "seconds", type=PAUSE, metavar="TIME", help="End after this time.")
@click.option("--payload", is_flag=True, help="Show key, headers and body too.")
@output_option(older=False)
@remotes_options
@config_options
def command(
    sources: tuple[str, ...],
    routes: tuple[str, ...],
    outcomes: tuple[str, ...],
    where: str | None,
    rate: float,
    limit: int | None,
    seconds: float | None,
    payload: bool,
    output: str,
    remotes: list[DaemonAddress],
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Show messages live, as the running daemons settle them, with the decisions of the rules.

    The command follows all daemons of the configuration on this machine through their control sockets, also through
    reloads and restarts. It shows at most --rate messages per second of each daemon, and reports the number of the
    others. It does not slow the daemons. Notes go to standard error. With --url it follows the daemons behind these
    addresses.
    """
    if not 0 < rate <= 1000:
        raise click.BadParameter("the rate must be at most 1000/s", param_hint="--rate")
    from bridge.app.composition import load_config
    from bridge.app.serve.views.tap import TapOptions
    from bridge.app.tap import TapReader, check_names, reader_of

    options = TapOptions(
        sources=sources,
        routes=routes,
        outcomes=tuple(map(Outcome, outcomes)),
        where=where,
        rate=rate,
        payload=payload,
    )
    reader = TapReader(lambda: remotes, options) if remotes else reader_of(load_config(config, overlay), options)
    if remotes:
        asyncio.run(check_names(remotes, options))
    view = _View(reader, as_json=output == "json")
    # The end of the time and Ctrl-C are both ordinary ends
    with suppress(TimeoutError, KeyboardInterrupt):
        asyncio.run(_show(view, reader, limit, seconds))
    view.finish()
    if not reader.daemons and seconds is not None:
        say("error: no daemon answered. Next: bridge serve", err=True)
        return exit_codes.UNAVAILABLE
    return exit_codes.OK


async def _show(view: _View, reader: TapReader, limit: int | None, seconds: float | None) -> None:
    """Print messages. Raises: TimeoutError after `seconds`."""
    from bridge.app.tap import DaemonNote

    async with asyncio.timeout(seconds), aclosing(reader.read()) as found:
        async for each in found:
            if isinstance(each, DaemonNote):
                say(each.text, err=True)
                continue
            view.show(each.daemon, each.document)
            view.report()
            if view.shown == limit:
                return


class _View:
    """Output of the messages."""

    def __init__(self, reader: TapReader, *, as_json: bool) -> None:
        self.shown = 0
        self._reader = reader
        self._as_json = as_json
        self._widths = [width for _, width in _COLUMNS]
        self._reported: Counter[str] = Counter()
        self._next = time.monotonic() + REPORT_SECONDS

    def show(self, daemon: str, document: Mapping[str, Any]) -> None:
        """Print one message."""
        if self._as_json:
            click.echo(json.dumps({"daemon": daemon, **document}))
        else:
            if self.shown == 0:
                self._line([name for name, _ in _COLUMNS], "COMMAND OR REASON")
            self._row(daemon, document)
        self.shown += 1

    def _row(self, daemon: str, document: Mapping[str, Any]) -> None:
        cells = [
            local_time(document["at"])[11:23],
            daemon.rpartition("/")[2],
            document["source"],
            f"{document['topic']}/{document['partition']}@{document['offset']}",
            document["outcome"],
            document["failed_route"] or ",".join(document["routes"]) or "-",
            f"{document['seconds'] * 1000:.1f}",
        ]
        if document["reason"] is not None:
            what = f"{document['reason']}: {document['detail']}"
        else:
            what = "; ".join(_COMMANDS[step["command"]["type"]].format(**step["command"]) for step in document["steps"])
        self._line(cells, what)
        if "message" in document:
            message = document["message"]
            for name in ("key", "key_base64", "headers", "body", "body_base64", "raw_base64"):
                if message.get(name):
                    click.echo(f"    {name}  {clean(json.dumps(message[name], ensure_ascii=False))}")

    def _line(self, cells: list[str], last: str) -> None:
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        padded = (f"{clean(cell):<{width}}" for cell, width in zip(cells, self._widths, strict=True))
        click.echo(f"{'  '.join(padded)}  {clean(last)}".rstrip())

    def report(self) -> None:
        """Say from time to time how many messages are not shown."""
        if time.monotonic() >= self._next:
            counts = self._reader.counts()
            self._say(counts - self._reported)
            self._reported = counts
            self._next = time.monotonic() + REPORT_SECONDS

    def finish(self) -> None:
        """Print the last counts."""
        counts = self._reader.counts()
        self._say(counts - self._reported)
        say(f"{plural(self.shown, 'message')} shown of {counts['settled']:,} settled", err=True)

    @staticmethod
    def _say(counts: Counter[str]) -> None:
        causes = {
            "over_rate": "beyond --rate",
            "unread": "this command was too slow",
            "unchecked": "--where takes too long",
            "undecided": "--where fails for the message, or the message was not decoded",
        }
        for name, what in causes.items():
            if counts[name]:
                say(f"not shown ({what}): {plural(counts[name], 'message')}", err=True)
