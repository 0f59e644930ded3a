"""Name, progress and end of an instance's saga, read from its start input and from its custom status."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bridge.sqlite_engine.model.instance import COMPLETED, FAILED

NAME_LIMIT = 100
"""Most characters of a name or word that is counted or logged."""

_DECLARED = re.compile(r'"definition":\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")')
_SAGA = '{"saga":'
_NAME = re.compile(r"[^\W\d]\w*(?:[.-][^\W\d]\w*)*")
_FINAL = frozenset({"completed", "compensated", "compensation_failed", "failed"})
_BY_STATUS: dict[int, str] = {COMPLETED: "completed", FAILED: "failed"}
_REASONS = frozenset({"failed", "timeout", "refused", "cancelled", "expression"})
MAX_COMPENSATIONS = 5
"""Most failed compensations of a saga that are read."""
OUTCOMES = ("completed", "compensated", "compensation_failed", "failed", "terminated")
"""Outcomes of sagas. `terminated`: a person or a rule ended the orchestration before the saga ended."""


@dataclass(frozen=True, slots=True)
class SagaEnd:
    """End of a saga.

    step, reason: cause of a failure; None where there is none.
    failed_compensations: the first ones, as pairs of step and reason.

    Words that are not like names are replaced: they come from code, which may put payload into them.
    """

    saga: str
    outcome: str
    step: str | None = None
    reason: str | None = None
    failed_compensations: tuple[tuple[str, str], ...] = ()


def is_name(text: str) -> bool:
    """Return whether a text looks like an identifier, in one or several words with `.` or `-` between them.

    Code may make a name from payload: addresses, numbers, and names with a number as a word are no names.
    """
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


def declared_name(start_input: str) -> str | None:
    """Name of the declared saga that a start input runs, with or without message envelope; None when it has none.

    Quotation marks within strings are escaped: no value of a message matches.
    """
    found = _DECLARED.search(start_input)
    if found is None:
        return None
    try:
        return _word(json.loads(found[1]))
    except ValueError:  # the input is not JSON
        return None


def saga_end(custom_status: str | None, status: int, saga: str | None = None) -> SagaEnd | None:
    """End of the saga of a finished instance; None when it ran no saga.

    status: number of its status. saga: name of a declared saga, which may end before it has a custom status.
    """
    document: dict[str, Any] = {}
    if custom_status is not None and custom_status.startswith(_SAGA):
        with suppress(ValueError, RecursionError):
            document = json.loads(custom_status)
    name = document.get("saga")
    if not isinstance(name, str):
        if saga is None:
            return None
        name, document = saga, {}
    reached = document.get("status")
    outcome = reached if isinstance(reached, str) and reached in _FINAL else _BY_STATUS.get(status, "terminated")
    step, reason = _optional(document.get("step")), _optional(document.get("reason"))
    return SagaEnd(_word(name), outcome, step, reason, _failed_compensations(document))


STEP_STATES = frozenset(
    {"waiting", "running", "completed", "refused", "unknown", "compensating", "compensated", "compensation_failed"}
)
"""States of a step in the custom status of a saga."""
MAX_STEPS = 200
"""Most steps of a saga that are read."""


@dataclass(frozen=True, slots=True)
class SagaProgress:
    """Progress of a saga: state, and state of each step in their order. Words that are not like names are replaced."""

    saga: str
    state: str
    steps: tuple[tuple[str, str], ...]


def saga_progress(custom_status: Any) -> SagaProgress | None:
    """Progress in a custom status, which is a JSON value; None when it is not that of a saga."""
    match custom_status:
        case {"saga": str(saga), "status": str(state), "steps": dict(steps)}:
            read = (
                (_word(str(name)), each if isinstance(each, str) and each in STEP_STATES else "unknown")
                for name, each in list(steps.items())[:MAX_STEPS]
            )
            return SagaProgress(_word(saga), _word(state), tuple(read))
        case _:
            return None


def _failed_compensations(document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    listed = document.get("failed_compensations")
    found = []
    for each in listed[:MAX_COMPENSATIONS] if isinstance(listed, list) else ():
        if isinstance(each, dict) and isinstance(step := each.get("step"), str):
            error = each.get("error")
            # The text is `REASON: DETAIL`, and only the reason cannot contain payload
            reason = error.partition(":")[0] if isinstance(error, str) else ""
            found.append((_word(step), reason if reason in _REASONS else ""))
    return tuple(found)


def _optional(value: Any) -> str | None:
    return _word(value) if isinstance(value, str) else None


def _word(text: str) -> str:
    """Name or word without characters that end a line or control a terminal."""
    shown = text[:NAME_LIMIT]
    return shown if shown.isprintable() and shown else "(unprintable)"
