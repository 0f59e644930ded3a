"""Orchestrations as `bridge instances` shows them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared.connection import operate_each
from bridge.cli.shared.output import clean, compact, local_time, print_fields, print_table
from bridge.core.errors import BridgeError, ConfigError, EngineOutage
from bridge.core.user_code.frames import StackFrame, frames

if TYPE_CHECKING:
    from bridge.app.operations.instances.causes import FailureCause
    from bridge.app.operations.instances.instances import InstanceInfo


@dataclass(frozen=True, slots=True)
class Shown:
    """Orchestration with the cause of its failure, and its history if that is wanted.

    history: result of `instances.history` or `instances.timeline`.
    """

    instance: InstanceInfo
    cause: FailureCause | None = None
    history: Sequence[Mapping[str, Any]] | None = None


def instance_of(document: Mapping[str, Any]) -> InstanceInfo:
    """Instance of a result of an operation."""
    from bridge.app.operations.instances.instances import InstanceInfo

    return InstanceInfo(**document)


def shown(options: dict[str, Any], names: Sequence[str], history: str | None = None) -> list[Any]:
    """Instances as `Shown`, or errors. An outage ends the list.

    options: values of `engine_options`. history: operation that reads the history; None: it is not wanted.
    """
    found = operate_each(options, [("instances.show", {"instance_id": name}) for name in names])
    return with_causes(
        options, [each if isinstance(each, BridgeError) else instance_of(each) for each in found], history
    )


def with_causes(options: dict[str, Any], found: Sequence[Any], history: str | None = None) -> list[Any]:
    """Replace each `InstanceInfo` by a `Shown` with its cause and history, or by the error that this met.

    An outage ends the list.
    """
    from bridge.app.operations.instances.causes import FailureCause
    from bridge.app.operations.instances.instances import InstanceInfo

    at = [position for position, one in enumerate(found) if isinstance(one, InstanceInfo)]
    calls = []
    for position in at:
        one = found[position]
        id_ = {"instance_id": one.instance_id}
        calls += [("instances.cause", id_)] if one.failure is not None or one.saga is not None else []
        calls += [(history, id_)] if history is not None else []
    answers = iter(operate_each(options, calls) if calls else ())
    results = list(found)
    for position in at:
        one = found[position]
        has_cause = one.failure is not None or one.saga is not None
        got = [next(answers, None) for _ in range(has_cause + (history is not None))]
        if error := next((each for each in got if isinstance(each, BridgeError)), None):
            results[position] = error
            if isinstance(error, EngineOutage | ConfigError):
                return results[: position + 1]
            continue
        cause = got[0] if has_cause else None
        results[position] = Shown(one, cause and FailureCause(**cause), got[-1] if history is not None else None)
    return results


def in_json(one: InstanceInfo) -> dict[str, Any]:
    """Members of an instance for `--json`."""
    return asdict(one)


def document(shown: Shown) -> dict[str, Any]:
    """Members of an instance for `--json`, with the cause of its failure."""
    cause = shown.cause
    failed = None if cause is None else {"instance_id": cause.instance_id, "at": cause.frame or None, **cause.document}
    return in_json(shown.instance) | {"cause": failed}


def print_instance(shown: Shown) -> None:
    """Print an orchestration in lines: its failure from the inside out, frames of the bridge and of the SDK last."""
    from bridge.cli.shared.saga_progress import input_of, progress

    one, cause = shown.instance, shown.cause
    own = one.failure or {}
    saga, *steps = progress(one.custom_status) or [""]
    failed = "" if cause is None else f"{cause.document['type']}: {cause.document['message']}"
    if cause is not None and cause.frame:
        failed = f"{cause.frame}: {failed}"
    is_caused = cause is not None and cause.document != own
    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.shown_name),
            ("status", one.status),
            ("created", local_time(one.created_at)),
            ("updated", local_time(one.last_updated_at)),
            ("custom status", "" if saga else compact(one.custom_status)),
            ("input", compact(input_of(one.input))),
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


def _lines(found: Sequence[StackFrame]) -> list[str]:
    return [line for frame in found for line in frame.lines]


def print_history(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print a timeline."""
    click.echo()
    limit = 200 if sys.stdout.isatty() else None
    print_table(
        ("TIME", "AFTER", "EVENT", "DATA"),
        [
            (
                local_time(each["at"]),
                f"+{each['after']:.3f}s",
                local_time(each["event"]),
                compact(each["data"], limit),
            )
            for each in entries
        ],
    )
