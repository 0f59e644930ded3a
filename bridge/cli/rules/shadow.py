"""`bridge shadow`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.rules.diff import print_comparison
from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import PATH, json_option
from bridge.cli.shared.output import ProgressCount, print_json, say
from bridge.cli.shared.parameters import DurationType
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.config.source import Loaded


class ShareType(click.ParamType[Any]):
    """Share such as `5%`. Returns a number above 0, at most 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from bridge.config.model.types import parse_share

        try:
            found = parse_share(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not found:
            self.fail("the share must be above 0%", param, ctx)
        return found


@make(
    "shadow",
    effect="reads",
    examples="""
        bridge shadow --config new/bridge.yaml --source orders            # for ten minutes
        bridge shadow --config new/ --for 1h --share 5%
        bridge shadow --config new/ --offline                             # read the brokers, not the daemon's messages
        bridge shadow --report                                            # of a shadow that another command has started
        bridge shadow --stop
    """,
    exits={
        0: "every message has the same route, commands and dead-letter reason in both configurations",
        1: "messages would be routed differently, or none was compared",
        3: "a configuration is not valid, or a broker, a daemon or a schema registry cannot be reached",
    },
)
@click.option(
    "--config",
    "--candidate",
    "candidate",
    type=PATH,
    multiple=True,
    metavar="FILE|DIR",
    help="Candidate configuration; repeatable.",
)
@click.option("--source", "sources", multiple=True, metavar="SOURCE", help="Only this source; repeatable.")
@click.option(
    "--for", "seconds", type=DurationType("1ms", "24h"), default="10m", show_default=True, help="Duration, at most 24h."
)
@click.option("--share", type=ShareType(), default="100%", show_default=True, help="Share of the messages to compare.")
@click.option("--offline", is_flag=True, help="Do not use the daemon: read new messages from the brokers.")
@click.option("--report", is_flag=True, help="Show the report of the running shadow, or of the last one.")
@click.option("--stop", is_flag=True, help="End the running shadow, and show its report.")
@click.option(
    "-c",
    "present",
    type=PATH,
    multiple=True,
    metavar="FILE|DIR",
    help="Present configuration; repeatable.  [default: bridge.yaml, else config/bridge.yaml]",
)
@click.option(
    "--overlay", type=PATH, multiple=True, metavar="FILE", help="Overlay for both configurations; repeatable."
)
@json_option
def command(
    candidate: tuple[Path, ...],
    sources: tuple[str, ...],
    seconds: float,
    share: float,
    offline: bool,
    report: bool,
    stop: bool,
    present: tuple[Path, ...],
    overlay: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Compare the decisions of a candidate configuration with those of the daemons, on their messages, for a time.

    Each daemon on this machine decides about its settled messages again with both configurations, beside its work and
    with at most a tenth of a processor. Nothing is executed. Without a daemon, or with --offline, the command itself
    reads new messages: it joins no group, and only peeks at queues. The report has the form of `bridge diff`.

    A shadow continues without this command, and ends when its time has passed.
    """
    from bridge.app import shadow
    from bridge.app.composition import load_config

    if report + stop + bool(candidate) != 1:
        raise click.UsageError("use one of --config, --report or --stop", click.get_current_context())
    loaded = load_config(present, overlay)
    if report or stop:
        found = asyncio.run(shadow.stop(loaded) if stop else shadow.report(loaded))
        if not found.found:
            raise LookupError("no daemon of this configuration on this machine has a shadow; start one with --config")
        return _shown(found.to_dict(), as_json)
    return _compare(loaded, candidate, overlay, sources, seconds, share, offline, as_json)


def _compare(
    loaded: Loaded,
    candidate: tuple[Path, ...],
    overlay: tuple[Path, ...],
    sources: tuple[str, ...],
    seconds: float,
    share: float,
    offline: bool,
    as_json: bool,
) -> int:
    from bridge.app import shadow
    from bridge.app.composition import load_config, require
    from bridge.app.rules.comparison import ConfigurationRules
    from bridge.app.serve.shadow import ShadowOptions

    other = load_config(candidate, overlay)
    ConfigurationRules(other, {}).compile()
    for name in sources:
        require("source", name, {**loaded.config.sources, **other.config.sources})
    options = ShadowOptions.parse(
        {
            "candidate": [str(path.absolute()) for path in candidate],
            "overlays": [str(path.absolute()) for path in overlay],
            "sources": sources,
            "seconds": seconds,
            "share": share,
        }
    )
    progress = ProgressCount("message", "compared")

    async def run() -> dict[str, Any]:
        if not offline:
            started = await shadow.start(loaded, options)
            for pid in started.silent:
                say(f"note: daemon {pid} does not answer, and is left out", err=True)
            if started.found:
                names = ", ".join(each["daemon"] for each in started.found)
                say(f"comparing on {names}; Ctrl-C ends it", err=True)
                return (await shadow.watch(loaded, seconds, progress)).to_dict()
            say("no daemon of this configuration answers on this machine; reading from the brokers", err=True)
        return (await shadow.compare_topics(loaded, other, sources, seconds, share, progress)).to_dict()

    try:
        return _shown(asyncio.run(run()), as_json)
    finally:
        progress.close()


def _shown(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(found)
    else:
        print_comparison(found)
        for line in _notes(found):
            say(line)
    if not found["messages"]:
        click.echo("error: no message was compared", err=True)
    sys.stdout.flush()
    return exit_codes.FAILED if found["different"] or not found["messages"] else exit_codes.OK


def _notes(found: dict[str, Any]) -> list[str]:
    lines = [f"{plural(found[name], 'message')} {text}" for name, text in _LEFT_OUT.items() if found.get(name)]
    lines += [f"{topic}: {share:.0%} of its messages were seen" for topic, share in found.get("seen", {}).items()]
    if found["silent"]:
        lines.append(f"partial: {plural(len(found['silent']), 'daemon')} did not answer")
    if found.get("running"):
        lines.append("the shadow is running; `bridge shadow --stop` ends it")
    return lines


_LEFT_OUT = {
    "shed": "not compared: they came faster than a tenth of a processor could compare them",
    "failed": "not compared: a function of `map` or a schema registry failed",
    "waiting": "not compared yet",
}
