"""Progress of a saga as text, from the custom status that sagas write."""

from __future__ import annotations

from typing import Any

MARKS = {
    "waiting": " ", "running": ">", "completed": "x", "refused": "-", "unknown": "?", "compensating": "<",
    "compensated": "~", "compensation_failed": "!",
}  # fmt: skip
"""Character before a step, by the step's state."""


def progress(custom_status: Any) -> list[str]:
    """Headline and one line per step; empty for the status of any other orchestration."""
    if not isinstance(custom_status, dict) or not isinstance(custom_status.get("steps"), dict):
        return []
    saga, steps = custom_status.get("saga"), custom_status["steps"]
    if not isinstance(saga, str):
        return []
    failures = {one.get("step"): one.get("error") for one in _list(custom_status.get("failed_compensations"))}
    width = max((len(name) for name in steps), default=0)
    lines = [f"{saga} {custom_status.get('status')}{_cause(custom_status)}"]
    for name, state in steps.items():
        why = f": {failures[name]}" if name in failures else ""
        lines.append(f"[{MARKS.get(str(state), '?')}] {name:<{width}}  {state}{why}")
    return lines


def input_of(start: Any) -> Any:
    """Input of a configured saga, without the definition in its start input. Other inputs are returned as they are."""
    return start["input"] if _declared(start) else start


def outline(start: Any) -> str:
    """Name and steps of a configured saga, `purchase: (stock | payment) > parcel`; empty for other start inputs."""
    if not _declared(start):
        return ""
    definition = start["definition"]
    return f"{definition['name']}: {_sequence(definition['steps'])}"


def _declared(start: Any) -> bool:
    return isinstance(start, dict) and {"format", "definition", "input"} == start.keys()


def _sequence(entries: list[dict[str, Any]]) -> str:
    return " > ".join(map(_entry, entries))


def _entry(entry: dict[str, Any]) -> str:
    if "parallel" in entry:
        return f"({' | '.join(map(_entry, entry['parallel']))})"
    if "steps" in entry:
        return _sequence(entry["steps"])
    return entry.get("name") or "point of no return"


def _cause(status: dict[str, Any]) -> str:
    """Cause of the state as `, payment timeout: no answer`."""
    reason, detail, step = status.get("reason"), status.get("detail"), status.get("step")
    if reason is None:
        return ""
    words = f"{step} {reason}" if step else str(reason)
    return f", {words}: {detail}" if detail else f", {words}"


def _list(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
