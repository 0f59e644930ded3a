"""Status of one or several daemons: one JSON document, its sums, and the lines that need a person. Pure.

`GET /api/v1/status`, the control socket and `bridge status -o json` have the same document.
docs/control-channel.md describes its members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bridge.core.states import (
    READY,
    CandidateState,
    EngineState,
    JobState,
    ProcessState,
    QuarantineState,
    SagaState,
    SourceState,
    WorkerState,
    WorkflowState,
)
from bridge.core.words import plural

StatusDocument = dict[str, Any]
"""Status as JSON types."""

PAUSES = "pauses"
"""Cause that holds a source while its engine does not tell whether a person has paused it."""

OUTAGE_SECONDS = 60.0
"""Seconds of an outage after which it needs a person. A shorter one ends by itself."""

LATE = 2
"""Registrations on its engine that a daemon has missed when the text about it tells so: a busy one may miss one."""
MISSED = 3
"""Registrations that a daemon has missed when it counts as ended, unless it answers."""

OVERDUE_SECONDS = 3600.0
"""Seconds in quarantine after which a key that only a person releases is overdue."""

_FAILED = ("compensation_failed", "failed")
"""Outcomes of failed sagas."""

WINDOW = 60.0
"""Seconds over which rates are computed."""

_URGENT: Sequence[str] = (
    SourceState.DEAD,
    SourceState.STUCK,
    SourceState.PAUSED,
    SourceState.HELD,
    SourceState.PROBING,
    SourceState.THROTTLED,
    SourceState.CONSUMING,
    SourceState.IDLE,
)
"""States of a source, the most urgent first."""


class Rates:
    """Rates per second of growing counts, over the last minute. Pure: the clock is passed in."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[int, ...]]] = deque()

    def sample(self, now: float, *counts: int) -> None:
        """Keep the counts of a moment. now: monotonic seconds."""
        self._samples.append((now, counts))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def per_second(self, now: float, *counts: int) -> tuple[float, ...]:
        """Rates since the oldest sample. now, counts: as of `sample`."""
        if not self._samples or now <= self._samples[0][0]:
            return tuple(0.0 for _ in counts)
        since, before = self._samples[0]
        return tuple(
            round(max(0, count - earlier) / (now - since), 2) for count, earlier in zip(counts, before, strict=True)
        )


class NamedRates:
    """Counts by name, with their rates over the last minute. Pure: the clock is passed in."""

    def __init__(self) -> None:
        self._rates: dict[str, Rates] = {}

    def sample(self, now: float, counts: Mapping[str, int]) -> None:
        """Keep the counts of a moment. now: monotonic seconds."""
        for name, count in counts.items():
            self._rates.setdefault(name, Rates()).sample(now, count)

    def document(self, now: float, word: str, counts: Mapping[str, int]) -> StatusDocument:
        """Counts as JSON types: of each name its count, under `word`, and `per_second`."""
        none = Rates()
        return {
            name: {word: count, "per_second": self._rates.get(name, none).per_second(now, count)[0]}
            for name, count in counts.items()
        }


def merge(documents: Sequence[StatusDocument], unanswered: Sequence[Mapping[str, Any]] = ()) -> StatusDocument:
    """Add up the documents of several daemons. unanswered: `daemons` entries of those that did not answer.

    Sources are added up by name, engines by identity: several daemons on one engine report the same facts.
    """
    daemons = [daemon for each in documents for daemon in each["daemons"]] + [dict(each) for each in unanswered]
    merged: StatusDocument = {
        "time": max((each["time"] for each in documents), default=None),
        "asked": len(daemons),
        "answered": sum(each["answered"] for each in daemons),
        "daemons": daemons,
        "engines": _grouped(documents, "engines", lambda each: (each["name"], each["id"]), _engine),
        "sources": _grouped(documents, "sources", lambda each: each["name"], _source),
        "components": _grouped(documents, "components", lambda each: (each["kind"], each["name"]), _component),
        "limits": _limits(documents),
        # A daemon of an earlier version has none
        "targets": _added(each.get("targets", {}) for each in documents),
    }
    merged["problems"] = problems(merged)
    return merged


def _limits(documents: Sequence[StatusDocument]) -> list[StatusDocument]:
    """Temporary limits of routes, each with the number of daemons that apply it."""
    found: dict[str, StatusDocument] = {}
    for document in documents:
        # A daemon of an earlier version has none
        for limit in document.get("limits", ()):
            known = found.get(limit["route"])
            if known is None:
                found[limit["route"]] = {"daemons": 1, **limit}
            else:
                known["daemons"] += limit.get("daemons", 1)
                known["until"] = max(known["until"], limit["until"])
                known["seconds_left"] = max(known["seconds_left"], limit["seconds_left"])
    return list(found.values())


def problems(document: StatusDocument) -> list[dict[str, Any]]:
    """Lines that need a person: subject, text, and the next command."""
    found: list[dict[str, Any]] = []

    def add(subject: str, text: str, command: str) -> None:
        found.append({"subject": subject, "text": text, "next": command})

    for daemon in document["daemons"]:
        if not daemon["answered"]:
            add(f"daemon {daemon['id']}", f"daemon {daemon['id']}: {daemon['detail']}", daemon["next"])
    versions = _versions(document)
    if len(versions) > 1:
        named = "; ".join(f"{version}: {', '.join(sorted(ids)[:3])}" for version, ids in sorted(versions.items()))
        add(
            "daemons", f"the daemons use {len(versions)} versions of the configuration ({named})", "bridge reload --all"
        )
    for daemon in document["daemons"]:
        if daemon["answered"] and (refused := daemon.get("config", {}).get("reload_refused")):
            text = f"daemon {daemon['id']} refuses its changed configuration: {refused}"
            add(f"daemon {daemon['id']}", text, "bridge reload --dry-run")
    for part in (*document["sources"], *document["components"]):
        kind, name = part.get("kind", "source"), part["name"]
        fallback = (kind, part["state"]) == ("candidate", CandidateState.FALLBACK)  # ready, and for a person to decide
        if part["state"] is None or (part["state"] in READY and not fallback) or not _needs_person(kind, part):
            continue
        on = _named(document, part)
        engines = away_engines(document, part) if kind == "source" else []
        detail = f": {part['detail']}" if part["detail"] else ""
        if engines:
            detail = f" by {', '.join(f'engine {each}' for each in engines)}"
        sentence = _SENTENCES.get((kind, part["state"]), "{kind} {name} is {state}")
        text = sentence.format(kind=kind, name=name, state=part["state"])
        add(f"{kind} {name}", f"{text}{on}{detail}", _next_command(kind, part))
    for source in document["sources"]:
        # A daemon of an earlier version does not count them
        if (dead_letters := source.get("dead_letters_open")) and (count := dead_letters["count"]):
            oldest = dead_letters["oldest_seconds"]
            what = plural(count, "dead letter is", "dead letters are")
            since = "" if oldest is None else f", {'' if count == 1 else 'the oldest '}for {age(oldest)}"
            text = f"{what} open{since} (source {source['name']})"
            add(f"source {source['name']}", text, f"bridge dlq groups {source['name']}")
    for engine in document["engines"]:
        _add_of_engine(document, engine, add)
    return found


def _add_of_engine(document: StatusDocument, engine: StatusDocument, add: Callable[[str, str, str], None]) -> None:
    """Add the lines of one engine. add: takes subject, text and the next command."""
    name = engine["name"]
    if engine["state"] == EngineState.AWAY and (engine["seconds"] or 0) >= OUTAGE_SECONDS:
        text = f"engine {name} is away{_named(document, engine)} for {age(engine['seconds'])}: {engine['detail']}"
        add(f"engine {name}", text, "bridge doctor --only engine")
    for keys in engine["quarantined"] or ():
        # A daemon of an earlier version counts only the overdue keys
        if count := keys.get("manual", keys["overdue"]):
            what = plural(count, "key is", "keys are")
            source, since = keys["source"], keys.get("manual_seconds", keys["oldest_seconds"])
            oldest = "" if since is None else f", {'' if count == 1 else 'the oldest '}for {age(since)}"
            text = f"{what} quarantined until a person decides{oldest} (source {source}, engine {name})"
            add(f"source {source}", text, f"bridge quarantine list --source {source} --engine {name}")
    for process in engine.get("worker_processes") or ():
        if process["state"] == ProcessState.RESTARTING:
            text = f"a worker process of engine {name} is restarted: {process['detail']}"
            add(f"engine {name}", text, f"bridge instances list --status running --engine {name}")
    for job in engine.get("jobs") or ():
        if job["state"] == JobState.STOPPED:
            text = f"job {job['job']} ({job['kind']}, engine {name}) is stopped: {job['why']}"
            add(f"job {job['job']}", text, f"bridge jobs show {job['job']} --failed --engine {name}")
    for orchestration, count in _failed(engine).items():
        text = f"{plural(count, 'instance')} of {orchestration} failed today (engine {name})"
        add(f"engine {name}", text, f"bridge instances list --status failed --engine {name}")
    for saga, count in _uncompensated(engine).items():
        text = f"{plural(count, 'saga')} of {saga} could not be compensated today (engine {name})"
        add(f"engine {name}", text, f"bridge instances list --outcome compensation_failed --engine {name}")


def _versions(document: StatusDocument) -> dict[str, set[str]]:
    """Daemons by the version of their configuration, also those of other machines that an engine knows."""
    daemons: dict[str, str] = {}
    for daemon in document["daemons"]:
        if daemon["answered"] and "config" in daemon:  # a daemon of an earlier version has no peers
            daemons |= {
                peer["id"]: peer["config"] for peer in daemon.get("peers", ()) if peer.get("missed", 0) < MISSED
            }
    # What a daemon says of itself is newer
    daemons |= {each["id"]: each["config"]["version"] for each in document["daemons"] if "config" in each}
    versions: dict[str, set[str]] = {}
    for name, version in daemons.items():
        versions.setdefault(version, set()).add(name)
    return versions


def away_engines(document: StatusDocument, source: Mapping[str, Any]) -> list[str]:
    """Engines whose outage alone holds a source: what the status says of them explains the source."""
    causes = source["held_by"] if source["state"] == SourceState.HELD else []
    away = {f"engine {each['name']}" for each in document["engines"] if each["state"] == EngineState.AWAY}
    # The pauses of a source are on its engine
    if not causes or not away or not away.issuperset({*causes} - {PAUSES}):
        return []
    return sorted(each.removeprefix("engine ") for each in ({*causes} - {PAUSES} or away))


def age(seconds: float) -> str:
    """Age for a person in one unit: `3s`, `5m`, `2h`, `4d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


_NEXT: Mapping[tuple[str, str], Callable[[str], str]] = {
    ("source", SourceState.DEAD): lambda name: "bridge serve",
    ("source", SourceState.STUCK): lambda name: "bridge instances list --status running",
    ("source", SourceState.HELD): lambda name: "bridge doctor",
    ("source", SourceState.PAUSED): lambda name: f"bridge sources resume {name}",
    ("source", SourceState.PROBING): lambda name: "bridge sources list",
    ("worker", WorkerState.STUCK): lambda name: f"bridge instances list --status running --engine {name}",
    ("workflows", WorkflowState.INCOMPATIBLE): lambda name: f"bridge instances list --status failed --engine {name}",
    ("quarantine", QuarantineState.ORPHANED): lambda name: f"bridge quarantine list --engine {name}",
    ("candidate", CandidateState.FALLBACK): lambda name: "bridge canary status",
}


_SENTENCES: Mapping[tuple[str, str], str] = {
    ("sagas", SagaState.FAILED): "sagas on engine {name} have failed",
    ("workflows", WorkflowState.INCOMPATIBLE): "workflows on engine {name} are incompatible",
    ("worker", WorkerState.STUCK): "worker of engine {name} is stuck",
    ("quarantine", QuarantineState.ORPHANED): "quarantined keys on engine {name} are orphaned",
    ("candidate", CandidateState.FALLBACK): "the present rules decide again instead of candidate {name}",
}
"""Sentences of states. Those of the other states name the kind, the part and the state."""


def _needs_person(kind: str, part: Mapping[str, Any]) -> bool:
    """False for an outage that may end by itself. A stopped partition never does."""
    if (kind, part["state"]) != ("source", SourceState.HELD):
        return True
    return part["seconds"] >= OUTAGE_SECONDS or any("/" in cause for cause in part["held_by"])


def next_of_source(state: str, name: str) -> str:
    """Command that shows or changes the state of a source."""
    command = _NEXT.get(("source", state))
    return "bridge sources list" if command is None else command(name)


def _next_command(kind: str, part: Mapping[str, Any]) -> str:
    if (kind, part["state"]) == ("sagas", SagaState.FAILED):
        # The detail names the outcomes that the configuration asks for
        outcomes = [each for each in _FAILED if f"--outcome {each}" in part["detail"]] or _FAILED
        selected = " ".join(f"--outcome {each}" for each in outcomes)
        return f"bridge instances list {selected} --engine {part['name']}"
    # A daemon of a later version may have other states
    command = _NEXT.get((kind, part["state"]))
    return "bridge instances list" if command is None else command(part["name"])


def _named(document: StatusDocument, part: Mapping[str, Any]) -> str:
    """Names of the daemons in which a part has its state, where there are several daemons."""
    if document["asked"] < 2:
        return ""
    return f" in {', '.join(each['daemon'] for each in part['daemons'] if each['state'] == part['state'])}"


def _failed(engine: Mapping[str, Any]) -> dict[str, int]:
    """Instances by orchestration that failed today and still exist as failed. Compensated sagas are not among them."""
    counts = engine["counts"]
    if counts is None:
        return {}
    today = counts["failed_today"]
    return {name: count for name, failed in counts["failed"].items() if (count := min(failed, today.get(name, 0)))}


def _uncompensated(engine: Mapping[str, Any]) -> dict[str, int]:
    """Sagas by name whose compensation failed today and whose instances still exist."""
    counts = engine["counts"]
    if counts is None:
        return {}

    def by_name(member: str) -> dict[str, int]:
        return {each["saga"]: each["count"] for each in counts[member] if each["outcome"] == "compensation_failed"}

    today = by_name("sagas_today")
    return {name: count for name, exist in by_name("sagas").items() if (count := min(exist, today.get(name, 0)))}


# -- sums


def _grouped(
    documents: Sequence[StatusDocument],
    member: str,
    key: Callable[[StatusDocument], Any],
    join: Callable[[Sequence[StatusDocument]], StatusDocument],
) -> list[StatusDocument]:
    groups: dict[Any, list[StatusDocument]] = {}
    for each in documents:
        for part in each[member]:
            groups.setdefault(key(part), []).append(part)
    return [join(parts) for parts in groups.values()]


def _component(parts: Sequence[StatusDocument]) -> StatusDocument:
    """Part whose state is the most urgent one of several daemons."""
    worst = min(parts, key=lambda each: (_urgency(each["state"]), -each["seconds"]))
    return {**worst, "daemons": [daemon for each in parts for daemon in each["daemons"]]}


def _urgency(state: str) -> int:
    if state in _URGENT:
        return _URGENT.index(state)
    return len(_URGENT) if state in READY else 0


def _source(parts: Sequence[StatusDocument]) -> StatusDocument:
    def total(member: str) -> Any:
        return sum(each[member] for each in parts)

    def known(member: str) -> list[Any]:
        return [each[member] for each in parts if each[member] is not None]

    newest = max(parts, key=lambda each: each.get("dead_letters_counted") or "")
    return _component(parts) | {
        "dead_letters_open": newest.get("dead_letters_open"),
        "dead_letters_counted": newest.get("dead_letters_counted"),
        "partitions": total("partitions"),
        "held_by": sorted({cause for part in parts for cause in part["held_by"]}),
        "lag": sum(known("lag")) if known("lag") else None,
        "oldest_seconds": max(known("oldest_seconds"), default=None),
        "received_per_second": round(total("received_per_second"), 2),
        "settled_per_second": round(total("settled_per_second"), 2),
        "in_flight": total("in_flight"),
        "retrying": total("retrying"),
        "received": total("received"),
        "abandoned": total("abandoned"),
        "outcomes": _sums(each["outcomes"] for each in parts),
        "dead_letters": _sums(each["dead_letters"] for each in parts),
        "routes": _added(each.get("routes", {}) for each in parts),
    }


def _engine(parts: Sequence[StatusDocument]) -> StatusDocument:
    """Engine of several daemons. Each reports the same facts; the newest count has them."""
    newest = max(parts, key=lambda each: each["counted"] or "")
    counts = [each["counts"] for each in parts if each["counts"] is not None]
    return _component(parts) | {
        "durable": all(each["durable"] for each in parts),
        **{member: newest[member] for member in ("counted", "early", "quarantined")},
        "counts": counts[-1] if counts else None,
        # A daemon of an earlier version has none
        "worker_processes": [each for part in parts for each in part.get("worker_processes", ())],
        "jobs": next((each["jobs"] for each in (newest, *parts) if each.get("jobs")), []),
    }


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            found[name] = found.get(name, 0) + count
    return found


def _added(tables: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Figures by name of several daemons, added up."""
    found: dict[str, dict[str, float]] = {}
    for table in tables:
        for name, figures in table.items():
            known = found.setdefault(name, {})
            for word, figure in figures.items():
                known[word] = round(known.get(word, 0) + figure, 2)
    return found
