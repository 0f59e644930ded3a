"""Instances: the list with its filters, and one instance with timeline, history, payloads and actions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from durabletask.client import OrchestrationStatus
from markupsafe import Markup

from bridge.app.operations.cursors import START
from bridge.app.operations.instances.instances import InstanceInfo
from bridge.app.operations.instances.sagas import saga_of
from bridge.app.operations.instances.spans import SpanKind, lifetime
from bridge.app.operations.instances.timeline_svg import timeline_svg
from bridge.app.page.visit import Page, Picture, Visit, address, place
from bridge.core.errors import BridgeError, InstanceNotFound, InvalidCommand
from bridge.core.user_code.frames import frames, own_frame
from bridge.engines.sagas import OUTCOMES

PART = 50
"""Instances of one part of the list."""
MOST_EVENTS = 500
"""Events of a history that a page shows."""
_LONGEST_ERROR = 2_000
"""Characters of the error of a compensation."""
STATUSES = tuple(
    each for each in OrchestrationStatus.__members__ if each not in ("CONTINUED_AS_NEW", "CANCELED")
)  # no engine of ours ends an instance in these


async def _read(visit: Visit) -> Mapping[str, Any]:
    status, name, engine = visit.get("status"), visit.get("name"), visit.get("engine")
    listed = visit.read(
        "instances.list",
        engine=engine,
        cursor=visit.get("cursor") or START,
        limit=PART,
        statuses=status,
        name=name,
        prefix=visit.get("prefix"),
        outcomes=visit.get("outcome"),
        created_from=_utc(visit.get("from")),
        created_to=_utc(visit.get("to")),
        named=True,
    )
    part, counts = await asyncio.gather(listed, visit.read("instances.count", engine=engine))
    by_status: Counter[str] = Counter()
    for each in counts:
        if name in (None, each["name"]):
            by_status[each["status"]] += each["count"]
    return {
        "instances": [InstanceInfo(**each) for each in part["instances"]],
        "next": part["next"],
        "statuses": [(each, by_status[each]) for each in STATUSES if by_status[each] or each == status],
        "all": sum(by_status.values()),
        "names": sorted({each["name"] for each in counts}),
        "outcomes": OUTCOMES,
        "engines": list(visit.loaded.config.engines),
        "is_filtered": any(visit.get(each) for each in ("status", "name", "prefix", "outcome", "from", "to", "cursor")),
    }


async def _read_one(visit: Visit) -> Mapping[str, Any]:
    one, history = await _known(visit)
    given = {"engine": visit.get("engine"), "instance_id": one.instance_id}
    timeline, cause = await asyncio.gather(visit.read("instances.timeline", **given), _cause(visit, one, given))
    return {
        "one": one,
        "saga": saga_of(one),
        "compensation_errors": _compensation_errors(one.custom_status),
        "picture": _picture(one, history, visit.get("engine")),
        "children": _children(history),
        "timeline": timeline[-MOST_EVENTS:],
        "events": len(timeline),
        "cause": cause,
        "given": given,
        "is_finished": one.finished,
        "file": place("instances", one.instance_id, "timeline.svg"),
    }


def _compensation_errors(custom_status: Any) -> Mapping[str, str]:
    """Texts of failed compensations by step. They may be payload, as the whole status."""
    match custom_status:
        case {"failed_compensations": list(failed)}:
            pairs = ((each.get("step"), each.get("error")) for each in failed if isinstance(each, dict))
            return {
                step: text.removeprefix("failed: ")[:_LONGEST_ERROR]
                for step, text in pairs
                if isinstance(step, str) and isinstance(text, str)
            }
        case _:
            return {}


async def _file(visit: Visit) -> Picture:
    one, history = await _known(visit)
    drawn = timeline_svg(one, history)
    if drawn is None:
        raise InstanceNotFound("the instance has no history yet")
    return Picture(drawn, "timeline")


async def _known(visit: Visit) -> tuple[InstanceInfo, Sequence[Mapping[str, Any]]]:
    """Instance of the visit, and its history."""
    given = {"engine": visit.get("engine"), "instance_id": visit.parts["instance_id"]}
    one = InstanceInfo(**await visit.read("instances.show", **given))
    return one, await visit.read("instances.history", **given)


def _picture(one: InstanceInfo, history: Sequence[Mapping[str, Any]], engine: str | None) -> Markup | None:
    def link(instance_id: str) -> str:
        return address(place("instances", instance_id), engine=engine)

    drawn = timeline_svg(one, history, link)
    return None if drawn is None else Markup(drawn)  # noqa: S704 - the drawing escapes


def _children(history: Sequence[Mapping[str, Any]]) -> Sequence[tuple[str, str]]:
    """Ids and names of the children of an instance."""
    found = lifetime(history)
    spans = () if found is None else found.spans
    return [(each.instance_id, each.name) for each in spans if each.kind is SpanKind.CHILD and each.instance_id]


async def _cause(visit: Visit, one: InstanceInfo, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Failure of an instance or of its saga, with its place in code; None without one."""
    if one.failure is None and one.outcome not in ("failed", "compensated", "compensation_failed"):
        return None
    try:
        found: Mapping[str, Any] | None = await visit.read("instances.cause", **given)
    except BridgeError:
        return None
    if found is None:
        return None
    own = own_frame(frames(found["document"].get("stack_trace")))
    return {**found, "frame": "" if own is None else str(own)}


def _utc(text: str | None) -> str | None:
    """Time of a field for date and time, which has no zone: it is UTC. Raises: InvalidCommand."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidCommand(f"{text[:100]!r} is no time; write it like 2027-01-31T08:00") from None
    return at.isoformat() if at.tzinfo else f"{at.isoformat()}Z"


INSTANCES = Page("/instances", "instances.html", _read, "Instances")
ONE_INSTANCE = Page("/instances/{instance_id}", "instance.html", _read_one)
TIMELINE_FILE = Page("/instances/{instance_id}/timeline.svg", "", _file)
