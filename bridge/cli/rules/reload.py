"""`bridge reload`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, output_option, reason_option
from bridge.cli.shared.output import print_json, say

if TYPE_CHECKING:
    from bridge.config.source import Loaded

_EXITS = {
    0: "every daemon uses the configuration of its files",
    1: "a daemon refused the configuration, or its files cannot be read; nothing has changed there",
    3: "no daemon runs here, or one does not answer",
}


@make(
    "reload",
    effect="changes",
    examples="""
        bridge reload --dry-run                        # what would change
        bridge reload
        bridge reload -o json | jq '.daemons[].routes'
        kill -HUP "$(pgrep -f 'bridge serve')"         # one daemon, without an answer
    """,
    exits=_EXITS,
)
@click.option("--dry-run", is_flag=True, help="Check and compare only; change nothing.")
@reason_option
@output_option()
@config_options
def command(dry_run: bool, reason: str | None, output: str, **options: Any) -> int:
    """Make the running daemons use the changed configuration, without a restart.

    Each daemon of the state directory reads its own files again and checks them as `bridge check` does. It refuses
    the whole reload when it finds a problem, or a change that needs a restart: engines, brokers, registries, workflow
    code, `ops`. Otherwise new messages follow the new rules at once. Messages in flight keep their rules. A source
    with other changes drains and starts again, and the others continue.
    """
    from bridge.app.serve.control import ask_each

    loaded = _state(options)
    if loaded is None:
        return exit_codes.FAILED
    name, given = ("reload.plan", {}) if dry_run else ("reload", {"reason": reason})
    found = asyncio.run(ask_each(loaded, name, given))
    if not found:
        return _nobody(loaded, reason, dry_run=dry_run)
    answers = [answer for _, answer in found if not isinstance(answer, BaseException)]
    silent = [{"daemon": daemon, "detail": str(error)} for daemon, error in found if isinstance(error, BaseException)]
    if output == "json":
        print_json({"daemons": answers, "silent": silent})
    else:
        for answer in answers:
            _print(answer)
        for each in silent:
            say(f"error: {each['daemon']}: {each['detail']}", err=True)
    if any(answer["result"] == "refused" for answer in answers):
        return exit_codes.FAILED
    return exit_codes.UNAVAILABLE if silent else exit_codes.OK


def _state(options: Mapping[str, Any]) -> Loaded | None:
    """Configuration that names the state directory, also if it has problems; None after they were printed."""
    from bridge.app.composition import config_paths
    from bridge.config.source import survey

    found = survey(config_paths(options["config"]), options["overlay"])
    if found.loaded is None:
        for problem in found.problems:
            say(f"error: {problem}", err=True)
        say("no daemon was asked: the files cannot be read", err=True)
    return found.loaded


def _nobody(loaded: Loaded, reason: str | None, *, dry_run: bool) -> int:
    from bridge.app.audit import refused
    from bridge.app.state import state_directory
    from bridge.core.errors import EngineUnavailable

    what = f"no daemon runs with the state directory {state_directory(loaded)}; start one with `bridge serve`"
    if not dry_run:
        with refused(loaded, "reload", "*", reason):
            raise EngineUnavailable(what)
    raise EngineUnavailable(what)


def _print(answer: Mapping[str, Any]) -> None:
    daemon = answer["daemon"]
    if answer["result"] == "refused":
        would = "would refuse" if answer["dry_run"] else "refuses"
        say(f"error: {daemon} {would} the reload; the configuration {answer['from']} stays in use:", err=True)
        for problem in answer["problems"]:
            say(f"  {problem}", err=True)
        return
    if answer["result"] == "unchanged":
        say(f"{daemon}: nothing to reload, the configuration {answer['from']} is in use")
        return
    verb = "would change" if answer["dry_run"] else "changed"
    say(f"{daemon} {verb} from {answer['from']} to {answer['to']}")
    for source in answer["sources"]:
        if source["change"] != "unchanged":
            keys = _listed([*source["keys"], *(f"route {route}" for route in source["routes"])])
            state = ", waits for its broker or for messages in flight" if source["starting"] else ""
            say(f"  source {source['source']}: {source['change']}{keys}{state}")
        elif source["rebalanced_with"]:
            others = ", ".join(source["rebalanced_with"])
            say(f"  source {source['source']}: unchanged; its Kafka group also rebalances for {others}")
    for route in answer["routes"]:
        say(f"  route {route['route']}: {route['change']}{_listed(route['keys'])}")
    for setting in answer["settings"]:
        say(f"  {setting}: changed")
    repeats = [route["route"] for route in answer["routes"] if route["repeats"]]
    if repeats:
        say(
            f"note: ids or targets of {', '.join(repeats)} have changed: a message that the old rules have executed "
            "and that is delivered again may have a second effect",
            err=True,
        )


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
