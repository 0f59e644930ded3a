"""`bridge engine drain`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import operate
from bridge.cli.shared.options import config_options, json_option
from bridge.cli.shared.output import clean, print_json
from bridge.cli.shared.parameters import DURATION, PAUSE
from bridge.cli.shared.remote import remote_options
from bridge.core.words import plural


@make(
    "drain",
    effect="reads",
    examples="""
        bridge engine drain old
        bridge engine drain old --wait --timeout 2h
        bridge engine drain old --without-entities --json
    """,
    exits={
        0: "nothing is left: the engine can be switched off",
        1: "something is left, also after --timeout",
        3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
    },
)
@click.argument("engine", metavar="ENGINE")
@click.option("--wait", is_flag=True, help="Wait until nothing is left.")
@click.option("--timeout", type=DURATION, metavar="TIME", help="With --wait: the longest wait.  [default: none]")
@click.option(
    "--interval",
    type=PAUSE,
    default="5s",
    show_default=True,
    metavar="TIME",
    help="With --wait: time between two queries.",
)
@click.option("--without-entities", is_flag=True, help="Report entities with a state, but do not wait for them.")
@click.option(
    "--histories",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Most unfinished instances whose history is read for timers and open requests.",
)
@json_option
@config_options
@remote_options
def command(
    engine: str,
    wait: bool,
    timeout: float | None,
    interval: float,
    without_entities: bool,
    histories: int,
    as_json: bool,
    **options: Any,
) -> int:
    """Report what is left on ENGINE, and whether it can be switched off.

    An engine is drained when no route starts instances on it, no instance runs there, no message waits there, and no
    entity has a state. The command changes nothing.
    """
    call = ("engines.drain", {"engine": engine, "entities": not without_entities, "histories": histories})
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        [found] = operate({**options, "engine": engine}, call)
        if not (found["left"] and wait and (end is None or time.monotonic() < end)):
            break
        time.sleep(interval)
    if as_json:
        print_json({**found, "drained": not found["left"]})
    else:
        for line in _lines(found):
            click.echo(line)
    return exit_codes.FAILED if found["left"] else exit_codes.OK


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Report as text, first what keeps the engine from being switched off."""
    name, left = clean(found["engine"]), found["left"]
    for member, what in _WORDS.items():
        count = found[member]
        text = (
            ", ".join(map(_entry, count.items() if isinstance(count, Mapping) else count))
            if _is_named(count)
            else count
        )
        if count:
            yield f"{'left' if member in left else 'note'}: {what}: {text}"
    if found["timers"]:
        of = plural(found["examined"], "unfinished instance")
        yield f"note: the last timer of {of} is due at {found['last_timer']}"
    if left:
        yield f"engine {name} is not drained"
    else:
        yield f"engine {name} is drained: remove it from `find`, then from `engines`"


def _is_named(count: object) -> bool:
    return isinstance(count, Mapping | list)


def _entry(one: object) -> str:
    """Name, or name and number."""
    return clean(one) if isinstance(one, str) else f"{clean(one[0])} {one[1]:,}"  # type: ignore[index]


_WORDS = {
    "starts": "routes that start instances here",
    "instances": "unfinished instances",
    "jobs": "unfinished instances of the bridge",
    "early": "early messages",
    "quarantined": "quarantined keys",
    "replays": "dead letters that wait for their replay",
    "entities": "entities with a state",
    "pauses": "paused sources, which would resume",
    "limits": "temporary limits of routes, which would end",
    "requests": "open requests",
    "handled": "blocks with states of dead letters, which would count as open again",
    "kept": "finished instances, whose messages would have an effect again if they were repeated",
    "sources": "sources with their state here",
}
"""Words for the members of a report, in order."""
