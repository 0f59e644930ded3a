"""Pages for the commands that states and problems name as their next step."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.app.page.visit import address, place


def page_of(command: str) -> str | None:
    """Address of the page that does what a command does; None where there is none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    match words[1:]:
        case ["instances", "list", *rest]:
            options = _options(rest)
            statuses, outcomes = options.get("status", ()), options.get("outcome", ())
            query = {
                "status": ",".join(statuses).upper(), "outcome": ",".join(outcomes), "engine": _only(options, "engine"),
            }  # fmt: skip
            return address("/instances", **query)
        case ["instances", "show", name, *_]:
            return place("instances", name)
        case ["dlq", "groups", *rest]:
            return address("/dead-letters", source=rest[0] if rest else None)
        case ["jobs", "show", job, *_]:
            return place("jobs", job)
        case ["quarantine" | "early", "list", *_]:
            return "/waiting"
        case ["canary" | "reload", *_]:
            return "/config"
    return None


def resumed_source(command: str) -> str | None:
    """Name of the source that a command resumes; None for any other command."""
    words = command.split()
    return words[3] if words[:3] == ["bridge", "sources", "resume"] and len(words) == 4 else None


def _options(words: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=False):
        found.setdefault(name.removeprefix("--"), []).append(value)
    return found


def _only(options: Mapping[str, Sequence[str]], name: str) -> Any:
    return options.get(name, (None,))[0]
