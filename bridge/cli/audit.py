"""`bridge audit`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import in_parts, lists_in_parts, operate
from bridge.cli.shared.options import PATH, config_options, json_option
from bridge.cli.shared.output import local_time, print_table
from bridge.cli.shared.parameters import SINCE
from bridge.cli.shared.remote import remote_options
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress

MOST_LINES = 10_000
"""Most lines that a daemon of an earlier version sends."""


@make(
    "audit",
    effect="reads",
    examples="""
        bridge audit --since 7d
        bridge audit --actor ada --action instances.terminate
        bridge audit --json | jq 'select(.result != "done")'
        bridge audit --path hubs/default.db
    """,
    exits={0: "the lines were shown", 1: "a file cannot be read"},
)
@click.option("--since", type=SINCE, metavar="TIME", help="Only changes since: RFC 3339, or 2h for two hours ago.")
@click.option("--until", type=SINCE, metavar="TIME", help="Only changes before: RFC 3339, or 2h for two hours ago.")
@click.option("--actor", metavar="NAME", help="Name or id of a user.")
@click.option("--action", metavar="NAME", help="Action like `instances.terminate`, or a group like `instances`.")
@click.option("--path", type=PATH, metavar="FILE", help="File of any engine, without a configuration.")
@json_option
@remote_options
@config_options
def command(
    since: datetime | None,
    until: datetime | None,
    actor: str | None,
    action: str | None,
    path: Path | None,
    as_json: bool,
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> None:
    """Show who changed what: every change by a command or through a daemon's control channel, allowed or not.

    The lines come from files of this machine: next to each embedded engine, and in `ops.state_dir`. Standard error
    names the files that were read. With --json: one JSON object per line. With --url, the lines are those of the
    daemon's machine.
    """
    from bridge.app.audit import AuditFilter, files, lines
    from bridge.app.composition import load_config
    from bridge.app.operations.engine_file import named_file
    from bridge.app.state import trails as all_trails
    from bridge.ops.trail import AuditTrail

    if path is not None and (config or overlay or remote is not None):
        raise click.UsageError("use either --path or a configuration or --url", click.get_current_context())
    if remote is not None:
        wanted = {"since": since, "until": until, "actor": actor, "action": action}
        options = {"remote": remote, "engine": None}
        if lists_in_parts(options):
            found = in_parts(options, ("audit.list", wanted), "lines", None)[::-1]
        else:
            [found] = operate(options, ("audit.list", {**wanted, "limit": MOST_LINES}))
        _print(found, as_json)
        return
    trails = [AuditTrail(named_file(path).parent)] if path is not None else all_trails(load_config(config, overlay))
    _print(lines(trails, AuditFilter(since, until, actor, action)), as_json)
    read = files(trails)
    named = f": {', '.join(map(str, read))}" if read else ""
    click.echo(f"read {plural(len(read), 'file')} on this machine{named}", err=True)


def _print(lines: Iterable[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for line in lines:
            click.echo(json.dumps(line))
    else:
        print_table(
            ("TIME", "ACTOR", "VIA", "ACTION", "TARGET", "FILTER", "RESULT", "REASON"), [_row(line) for line in lines]
        )


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    filter_ = " ".join(f"{name}={_text(value)}" for name, value in (line.get("filter") or {}).items())
    error = f" ({line['error']})" if line.get("error") else ""
    cells = (line.get(name) for name in ("time", "actor", "via", "action", "target"))
    time, *others = map(_text, cells)
    return (local_time(time), *others, filter_, f"{_text(line.get('result'))}{error}", _text(line.get("reason")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
