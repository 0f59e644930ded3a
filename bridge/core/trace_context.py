"""W3C trace context (https://www.w3.org/TR/trace-context/), levels 1 and 2: parse, validate, propagate. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_SAMPLED = frozenset("13579bdf")
"""Last digits of the flags of sampled traces."""

_NAMES = (TRACEPARENT, "Diagnostic-Id")
"""Names of the header. Azure's messaging clients write the same value under the second name."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]",
    re.ASCII,
)
_MOST_MEMBERS = 32
_LONGEST_STATE = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Trace context of a message.

    traceparent: valid.
    tracestate: valid or None.
    """

    traceparent: str
    tracestate: str | None = None

    @property
    def trace_id(self) -> str:
        """Trace id: 32 hexadecimal digits, common to the whole trace."""
        return self.traceparent[3:35]

    def child(self, event_id: str) -> TraceContext:
        """Context of a publication with the id `event_id` (a UUID): the same trace, and a span id derived from that id.

        A repeated publish has the same context. Raises: ValueError when `event_id` is no UUID.
        """
        span = event_id.replace("-", "")[-16:].lower()
        if not re.fullmatch("[0-9a-f]{16}", span) or int(span, 16) == 0:
            raise ValueError(f"{event_id!r} is no UUID")
        return TraceContext(f"00-{self.trace_id}-{span}-{self._flags}", self.tracestate)

    @property
    def _flags(self) -> str:
        """Trace flags that this version knows: sampled, and random trace id."""
        return f"{int(self.traceparent[53:55], 16) & 3:02x}"


def trace_context(*carriers: Mapping[str, Any]) -> TraceContext | None:
    """Trace context of the first carrier with a valid `traceparent`. Invalid values count as absent.

    carriers: headers, CloudEvents extension attributes (the distributed tracing extension uses the same names).
    """
    for carrier in carriers:
        for name in _NAMES:
            parent = carrier.get(name)
            if isinstance(parent, str) and is_traceparent(parent):
                state = carrier.get(TRACESTATE)
                return TraceContext(parent, state if isinstance(state, str) and is_tracestate(state) else None)
    return None


def sampled_trace(traceparent: str) -> str | None:
    """Trace id of a `traceparent` that is sampled; None of any other text."""
    return traceparent[3:35] if traceparent[-1:] in _SAMPLED and is_traceparent(traceparent) else None


def is_traceparent(text: str) -> bool:
    """True when this version can use the text. Fields of later versions are accepted, version ff never."""
    found = _PARENT.fullmatch(text)
    if found is None:
        return False
    version, trace, span, _, more = found.groups()
    return version != "ff" and (more is None or version != "00") and int(trace, 16) != 0 and int(span, 16) != 0


def is_tracestate(text: str) -> bool:
    """True when the text is valid: at most 32 members `key=value`, distinct keys, at most 512 characters."""
    if len(text) > _LONGEST_STATE:
        return False
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    return (
        0 < len(members) <= _MOST_MEMBERS
        and len(keys) == len(members)
        and all(_MEMBER.fullmatch(member) for member in members)
    )
