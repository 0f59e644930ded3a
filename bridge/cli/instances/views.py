"""Orchestrations as `bridge instances` shows them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.shared.output import clean, compact, print_fields, print_table
from bridge.core.errors import BridgeError, ConfigError, EngineOutage
from bridge.core.user_code.frames import Frame, frames

if TYPE_CHECKING:
    from durabletask.history import HistoryEvent

    from bridge.app.operations.causes import Cause
    from bridge.app.operations.instances import Instance

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shown:
    """Orchestration with the cause of its failure, and its history if that is wanted."""

    instance: Instance
    cause: Cause | None = None
    history: Sequence[HistoryEvent] | None = None


async def each_of(names: Sequence[str], read: Callable[[str], Awaitable[T]]) -> list[T | BridgeError]:
    """Results or errors of several instances. An outage ends the list."""
    found: list[T | BridgeError] = []
    for name in names:
        try:
            found.append(await read(name))
        except BridgeError as error:
            found.append(error)
            if isinstance(error, EngineOutage | ConfigError):
                break
    return found


def in_json(one: Instance) -> dict[str, Any]:
    """Members of an instance for `--json`."""
    return asdict(one)


def document(shown: Shown) -> dict[str, Any]:
    """Members of an instance for `--json`, with the cause of its failure."""
    cause = shown.cause
    failed = None if cause is None else {"instance_id": cause.instance_id, "at": cause.frame or None, **cause.document}
    return in_json(shown.instance) | {"cause": failed}


def print_instance(shown: Shown) -> None:
    """Print an orchestration in lines: its failure from the inside out, frames of the bridge and of the SDK last."""
    from bridge.cli.shared.saga_progress import given, progress

    one, cause = shown.instance, shown.cause
    own = one.failure or {}
    saga, *steps = progress(one.custom_status) or [""]
    failed = "" if cause is None else f"{cause.document['type']}: {cause.document['message']}"
    if cause is not None and cause.frame:
        failed = f"{cause.frame}: {failed}"
    is_caused = cause is not None and cause.document is not own
    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.shown_name),
            ("status", one.status),
            ("created", one.created_at),
            ("updated", one.last_updated_at),
            ("custom status", "" if saga else compact(one.custom_status)),
            ("input", compact(given(one.input))),
            ("output", compact(one.output)),
            ("failure", failed),
            ("in", cause.instance_id if cause is not None and cause.instance_id != one.instance_id else ""),
            ("raised", f"{own['type']}: {own['message']}" if own and is_caused else ""),
            ("saga", saga),
        )
    )
    for step in steps:
        click.echo(f"  {clean(step)}")
    traces = [cause.document["stack_trace"]] if cause is not None else []
    _print_traces([*traces, own["stack_trace"]] if own and is_caused else traces)


def _print_traces(traces: Sequence[str | None]) -> None:
    """Print stack traces: frames of the user's code, then those of libraries, of the bridge and of the SDK."""
    found = [frame for trace in traces for frame in frames(trace)]
    foreign = [line for trace in traces if trace and not frames(trace) for line in trace.splitlines()]
    own = [frame for frame in found if frame.is_own]
    others = [frame for frame in found if not frame.is_own and not frame.is_ours]
    ours = [frame for frame in found if frame.is_ours]
    for title, group in (("", own), ("in libraries:", others), ("in the bridge and the SDK:", ours)):
        if title and group:
            click.echo(f"  {title}")
        for line in _lines(group):
            click.echo(f"  {clean(line)}")
    for line in foreign:
        click.echo(f"  {clean(line)}")


def _lines(found: Sequence[Frame]) -> list[str]:
    return [line for frame in found for line in frame.lines]


def print_history(events: Sequence[HistoryEvent]) -> None:
    from bridge.app.operations.timeline import timeline

    click.echo()
    limit = 200 if sys.stdout.isatty() else None
    print_table(
        ("TIME", "AFTER", "EVENT", "DATA"),
        [(entry.at, f"+{entry.after:.3f}s", entry.event, compact(entry.data, limit)) for entry in timeline(events)],
    )
