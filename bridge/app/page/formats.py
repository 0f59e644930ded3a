"""Values as people read them: numbers, ages, durations, times, JSON. Filters of the templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from bridge.app.operations.instances.timeline import duration
from bridge.core.bytetext import printable
from bridge.ops.status import age

LONGEST_JSON = 20_000
"""Characters of a JSON value on a page. Its file has the whole value."""

_GOOD = {"up", "idle", "consuming", "running", "completed", "executed", "compensated", "replayed", "done", "succeeded"}
_BAD = {
    "dead", "stuck", "failed", "compensation_failed", "away", "dead_lettered", "incompatible", "orphaned", "denied",
    "refused", "returned",
}  # fmt: skip
_WARN = {
    "held", "paused", "probing", "throttled", "suspended", "terminated", "quarantined", "early", "retrying",
    "compensating", "stopped", "fallback", "draining", "restarting", "overdue", "open",
}  # fmt: skip


def tone(state: Any) -> str:
    """Tone of a state: good, warn, bad, or empty. The word itself is always shown beside it."""
    word = str(state or "").lower()
    return "good" if word in _GOOD else "bad" if word in _BAD else "warn" if word in _WARN else ""


def badge(state: Any) -> Markup:
    """State as a word with its tone."""
    word = printable(str(state or "unknown")).lower().replace("_", " ")
    return Markup('<span class="badge {}">{}</span>').format(tone(state), word)


def number(value: Any) -> str:
    """Number with thousands separated; a dash for an unknown one."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def rate(value: Any) -> str:
    """Number per second."""
    if value is None:
        return "–"
    return "0/s" if not value else f"{value:,.0f}/s" if value >= 10 else f"{value:.2g}/s"


def moment(value: Any) -> datetime | None:
    """Time of a value of an operation: RFC 3339, or seconds since the Unix epoch."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        return None if not value else datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def when(value: Any) -> Markup:
    """Time as an age; its title has the time itself."""
    at = moment(value)
    if at is None:
        return Markup("–")
    seconds = (datetime.now(UTC) - at).total_seconds()
    text = f"{age(seconds)} ago" if seconds >= 0 else f"in {age(-seconds)}"
    exact = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, text)


def seconds(value: Any) -> str:
    """Duration of seconds; a dash for an unknown one."""
    return "–" if value is None else duration(float(value))


def pretty(value: Any) -> Markup:
    """JSON value in lines, cut at `LONGEST_JSON` characters."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if len(text) > LONGEST_JSON:
        text = f"{text[:LONGEST_JSON]}\n… {len(text) - LONGEST_JSON:,} characters more"
    return lines(text)


LONGEST_SHORT = 300
"""Characters of a JSON value in a line of a table."""


def short(value: Any) -> str:
    """JSON value in one line, cut at `LONGEST_SHORT` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SHORT else f"{text[:LONGEST_SHORT]}…"


def lines(text: Any) -> Markup:
    """Text with its line breaks."""
    return escape("\n".join(map(printable, str(text)[:LONGEST_JSON].split("\n"))))


def command(text: Any) -> Markup:
    """Command of the command line."""
    return Markup("<code>{}</code>").format(printable(str(text)))


def commands(text: Any) -> Markup:
    """Text whose commands stand between backticks."""
    parts = str(text).split("`")
    return Markup("").join(command(part) if at % 2 else escape(printable(part)) for at, part in enumerate(parts))


def exact(value: Any) -> Markup:
    """Value of a field with all its characters: other texts are shown without control characters."""
    return escape(str(value))


FILTERS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (badge, number, rate, when, seconds, pretty, short, lines, command, commands, exact, tone)
}
