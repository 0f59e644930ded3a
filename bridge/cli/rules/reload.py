"""`bridge reload`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import operate
from bridge.cli.shared.options import config_options, output_option, reason_option
from bridge.cli.shared.output import print_json, say
from bridge.cli.shared.parameters import DURATION
from bridge.cli.shared.remote import remote_options
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.operations.client import Call
    from bridge.config.source import Loaded

_POLL_SECONDS = 0.5

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
        bridge reload --all                            # also on other machines
        bridge reload -o json | jq '.daemons[].routes'
        kill -HUP "$(pgrep -f 'bridge serve')"         # one daemon, without an answer
    """,
    exits=_EXITS,
)
@click.option("--dry-run", is_flag=True, help="Check and compare only; change nothing.")
@click.option("--all", "everywhere", is_flag=True, help="All daemons on the engine, also those of other machines.")
@click.option(
    "--timeout",
    type=DURATION,
    default="1m",
    show_default=True,
    metavar="TIME",
    help="With --all: longest wait for the answers.",
)
@reason_option
@output_option()
@remote_options
@config_options
def command(dry_run: bool, everywhere: bool, timeout: float, reason: str | None, output: str, **options: Any) -> int:
    """Make the running daemons use the changed configuration, without a restart.

    Each daemon of the state directory reads its own files again and checks them as `bridge check` does. It refuses
    the whole reload when it finds a problem, or a change that needs a restart: engines, brokers, registries, workflow
    code, `ops`. Otherwise new messages follow the new rules at once. Messages in flight keep their rules. A source
    with other changes drains and starts again, and the others continue.

    With --all the command stores the request on the engine. Every daemon that has registered there reads its own files
    within five seconds. An embedded engine has daemons on one machine only.

    With --url the daemon behind the address reads its files, and with --all each daemon on its engine.
    """
    from bridge.app.serve.control import ask_each
    from bridge.app.serve.control import operate as run

    if everywhere and dry_run:
        raise click.UsageError(
            "--dry-run asks the daemons of this machine; leave --all out", click.get_current_context()
        )
    name, given = ("reload.plan", {}) if dry_run else ("reload", {"reason": reason})
    if options["remote"] is not None:
        if everywhere and (engine := _remote_registry(options)) is not None:
            return _reload_all(partial(operate, {**options, "engine": engine}), reason, timeout, output)
        [answer] = operate({**options, "engine": None}, (name, given))
        return _reported([answer], [], output)
    loaded = _state(options)
    if loaded is None:
        return exit_codes.FAILED
    if everywhere:
        from bridge.app.serve.reload.daemons import registry_engine

        if (engine := registry_engine(loaded)) is not None:
            return _reload_all(lambda call: asyncio.run(run(loaded, engine, [call])), reason, timeout, output)
    found = asyncio.run(ask_each(loaded, name, given))
    if not found:
        return _nobody(loaded, reason, dry_run=dry_run)
    answers = [answer for _, answer in found if not isinstance(answer, BaseException)]
    silent = [{"daemon": daemon, "detail": str(error)} for daemon, error in found if isinstance(error, BaseException)]
    return _reported(answers, silent, output)


def _reported(answers: Sequence[Mapping[str, Any]], silent: Sequence[Mapping[str, Any]], output: str) -> int:
    """Print the answers of daemons; return the exit code."""
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
    from bridge.core.errors import ConfigError

    try:
        found = survey(config_paths(options["config"]), options["overlay"])
    except ConfigError as error:
        loaded, problems = None, error.problems
    else:
        loaded, problems = found.loaded, found.problems
    if loaded is None:
        for problem in problems:
            say(f"error: {problem}", err=True)
        say("no daemon was asked: the files cannot be read", err=True)
    return loaded


def _remote_registry(options: dict[str, Any]) -> str | None:
    """Engine with the registrations of daemons, of the daemon behind an address; None for daemons of one machine."""
    [engines] = operate({**options, "engine": None}, ("engines.list", {}))
    return next((each["name"] for each in engines if each["type"] != "embedded"), None)


def _reload_all(ask: Callable[[Call], list[Any]], reason: str | None, timeout: float, output: str) -> int:
    """Store a request on the engine, and wait for the answers of the daemons that were registered there.

    ask: runs an operation on the engine.
    """
    [state] = ask(("reload.all", {"reason": reason}))
    request, left = state["request"]["id"], set(state["daemons"])
    found: dict[str, Any] = {}
    end = time.monotonic() + timeout
    while left and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        [state] = ask(("reload.show", {}))
        for daemon in sorted(left & set(state["daemons"])):
            known = state["daemons"][daemon]
            if known.get("request") == request:
                found[daemon] = {"daemon": daemon, **{each: known[each] for each in ("result", "version", "detail")}}
                if output != "json":
                    _print_short(found[daemon])
        left -= found.keys() | (left - set(state["daemons"]))  # one that has left needs no answer
    silent = [{"daemon": daemon, "detail": f"no answer within {timeout:g} s"} for daemon in sorted(left)]
    if output == "json":
        print_json({"daemons": [found[daemon] for daemon in sorted(found)], "silent": silent})
    for each in silent if output != "json" else ():
        say(f"error: {each['daemon']}: {each['detail']}; it reloads when it runs again", err=True)
    if any(each["result"] == "refused" for each in found.values()):
        return exit_codes.FAILED
    return exit_codes.UNAVAILABLE if silent or not found else exit_codes.OK


def _print_short(answer: Mapping[str, Any]) -> None:
    if answer["result"] == "refused":
        say(f"error: {answer['daemon']} refuses the reload: {answer['detail']}", err=True)
    else:
        say(f"{answer['daemon']}: {answer['result']}, the configuration {answer['version']} is in use")


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
    for topic, number in answer["left_dead_letters"].items():
        say(
            f"note: no source has the {plural(number, 'open dead letter')} of {topic} any more, so `bridge dlq` does "
            f"not show them; `bridge topic read {topic}` does",
            err=True,
        )
    repeats = [route["route"] for route in answer["routes"] if route["repeats"]]
    if repeats:
        say(
            f"note: ids or targets of {', '.join(repeats)} have changed: a message that the old rules have executed "
            "and that is delivered again may have a second effect",
            err=True,
        )


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
