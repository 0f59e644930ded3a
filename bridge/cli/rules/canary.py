"""`bridge canary`: the candidate for the rules that decides about a share of the ordering keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, operate
from bridge.cli.shared.options import config_options, json_option, reason_option
from bridge.cli.shared.output import print_fields, print_json, say
from bridge.cli.shared.remote import remote_options

if TYPE_CHECKING:
    from bridge.config.source import Loaded

_EXITS = EXITS | {1: "the engine refused", 2: "the command line is not valid, or there is no candidate"}


@click.group(
    "canary",
    cls=BridgeGroup,
    members={
        "status": "Show the candidate, its counts and its fallback.",
        "abort": "End the candidate on all daemons.",
        "resume": "Try a candidate again that has ended.",
    },
    examples="""
        bridge canary status
        bridge canary abort --reason "wrong ids"
        bridge canary resume
    """,
)
def command() -> None:
    """Show and control the candidate for the rules (`rules.candidate`) of the running daemons.

    The record of the candidate is on the engine `default`, or on the first one. A change applies to all daemons within
    five seconds.
    """


@make(
    "status",
    effect="reads",
    examples="""
        bridge canary status
        bridge canary status -o json
    """,
    exits=_EXITS | {1: "the candidate has ended"},
)
@json_option
@remote_options
@config_options
def status(as_json: bool, **options: Any) -> int:
    """Show the candidate of the running daemons, with the counts of all of them together."""
    found = [_run(options, "canary.show", version) for version in _versions(options)]
    if as_json:
        print_json(found)
    for each in () if as_json else found:
        _print(each)
    return int(any(each["fallback"] is not None for each in found))


@make(
    "abort",
    effect="changes",
    examples="""
        bridge canary abort --reason "wrong ids"
    """,
    exits=_EXITS,
)
@reason_option
@remote_options
@config_options
def abort(reason: str | None, **options: Any) -> None:
    """End the candidate on all daemons, within five seconds and across restarts.

    The present rules decide about all ordering keys again. Events for instances that the candidate has started follow
    the candidate, as long as the configuration names it.
    """
    for version in _changed(options, "canary.abort", reason):
        _run(options, "canary.abort", version, reason=reason)
        say(f"candidate {version} has ended. Next: bridge canary resume")


@make(
    "resume",
    effect="changes",
    examples="""
        bridge canary resume
    """,
    exits=_EXITS,
)
@reason_option
@remote_options
@config_options
def resume(reason: str | None, **options: Any) -> None:
    """Try the candidate again, on all daemons, with new counts."""
    for version in _changed(options, "canary.resume", reason):
        _run(options, "canary.resume", version, reason=reason)
        say(f"candidate {version} decides again. Next: bridge canary status")


def _changed(options: dict[str, Any], action: str, reason: str | None) -> list[str]:
    """Versions for a change, with an audit line if there are none. Raises: LookupError."""
    from bridge.app.audit import refused
    from bridge.app.composition import load_config

    if options["remote"] is not None:
        return _versions(options)
    with refused(load_config(options["config"], options["overlay"]), action, "*", reason):
        return _versions(options)


def _versions(options: dict[str, Any]) -> list[str]:
    """Versions of the candidates of the running daemons, or of the remote one; else that of the configuration.

    Raises: LookupError if there is no candidate.
    """
    if options["remote"] is not None:
        [records] = operate({**options, "engine": None}, ("canary.list", {}))
        return _found([each["candidate"] for each in records])
    from bridge.app.candidate import load_candidate
    from bridge.app.composition import load_config
    from bridge.app.status import by_configuration

    loaded: Loaded = load_config(options["config"], options["overlay"])
    document = asyncio.run(by_configuration(loaded))
    found = [each["name"] for each in document["components"] if each["kind"] == "candidate"]
    if not found and (candidate := load_candidate(loaded)) is not None:
        found = [candidate.version]
    return _found(found)


def _found(found: list[str]) -> list[str]:
    if not found:
        raise LookupError("there is no candidate; name one under `rules.candidate`, and run `bridge reload`")
    return found


def _run(options: dict[str, Any], operation: str, version: str, **given: Any) -> dict[str, Any]:
    from bridge.app.candidate import record_engine
    from bridge.app.composition import load_config

    remote = options["remote"] is not None  # the daemon finds the engine
    engine = None if remote else record_engine(load_config(options["config"], options["overlay"]))
    found: dict[str, Any] = operate({**options, "engine": engine}, (operation, {"version": version, **given}))[0]
    return found


def _print(found: dict[str, Any]) -> None:
    fallback = found["fallback"] or {}
    print_fields(
        (
            ("candidate", found["candidate"]),
            ("state", found["state"]),
            ("messages", f"{found['messages']:,}"),
            ("dead letters", f"{found['dead_letters']:,}"),
            ("failed", f"{found['failed_instances']:,}"),
            ("ended by", fallback.get("by", "")),
            ("reason", fallback.get("reason", "")),
        )
    )
    if fallback:
        say("Next: bridge canary resume", err=True)


for each in (status, abort, resume):
    command.add_command(each)
