"""Share of the ordering keys that a candidate decides about, and the record by which all daemons fall back. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

TAG = "bridge.rules"
"""Tag of instances that a candidate has started: its version."""

AFTER = 50
"""Fewest messages of a candidate before its failures can lead to a fallback."""

MAX_DAEMONS = 100
"""Daemons with counts of their own. Beyond them, the counts of the oldest are added to those of OTHERS."""

OTHERS = "others"
BRIDGE = "bridge"
"""Author of a fallback that the bridge decided."""

_RANGE = 2**64


def selected(key: Hashable, version: str, share: float) -> bool:
    """True if a candidate decides about the messages of an ordering key.

    All daemons and sources agree for equal keys. A larger share contains a smaller one.
    version: of the candidate: another candidate gets other keys.
    """
    if isinstance(key, str):
        raw = key.encode("utf-8", "surrogatepass")
    else:
        raw = key if isinstance(key, bytes) else repr(key).encode()
    digest = hashlib.blake2b(raw, digest_size=8, key=version.encode()[:64]).digest()
    return int.from_bytes(digest) < share * _RANGE


@dataclass(frozen=True, slots=True)
class CanaryCounts:
    """Messages about which a candidate decided, dead letters among them, and failed instances that it started."""

    messages: int = 0
    dead_letters: int = 0
    failed: int = 0

    @property
    def failures(self) -> int:
        """Dead letters and failed instances."""
        return self.dead_letters + self.failed

    def __add__(self, other: CanaryCounts) -> CanaryCounts:
        return CanaryCounts(
            self.messages + other.messages, self.dead_letters + other.dead_letters, self.failed + other.failed
        )


@dataclass(frozen=True, slots=True)
class Fallback:
    """End of a candidate. at: seconds since the Unix epoch. by: person, or BRIDGE."""

    at: float
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """Record of one candidate on the engine.

    round: number of the attempt. Counts of an earlier attempt are dropped.
    counts: of this attempt, by daemon.
    """

    round: int = 0
    counts: Mapping[str, CanaryCounts] = field(default_factory=dict)
    fallback: Fallback | None = None

    @property
    def total(self) -> CanaryCounts:
        """Counts of all daemons."""
        return sum(self.counts.values(), CanaryCounts())

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> CanaryRecord:
        """Record of a stored state."""
        if state is None:
            return cls()
        fallback = state.get("fallback")
        return cls(
            state["round"],
            {daemon: CanaryCounts(*numbers) for daemon, numbers in state["counts"].items()},
            None if fallback is None else Fallback(fallback["at"], fallback["by"], fallback["reason"]),
        )

    def to_json(self) -> dict[str, Any]:
        """State to store."""
        found = self.fallback
        return {
            "round": self.round,
            "counts": {name: [each.messages, each.dead_letters, each.failed] for name, each in self.counts.items()},
            "fallback": None if found is None else {"at": found.at, "by": found.by, "reason": found.reason},
        }

    def applied(self, operation: str, value: Mapping[str, Any]) -> CanaryRecord:
        """Record after an operation. Unknown operations of later versions change nothing."""
        if operation == "count":
            return self._counted(value)
        if operation == "abort" and self.fallback is None:
            return CanaryRecord(self.round, self.counts, Fallback(value["at"], value["by"], value["reason"]))
        if operation == "resume":
            return CanaryRecord(self.round + 1)
        return self

    def _counted(self, value: Mapping[str, Any]) -> CanaryRecord:
        """Record with the counts of one daemon since its attempt began, which may arrive twice and out of order."""
        if value["round"] != self.round:
            return self
        counts = dict(self.counts)
        known = counts.pop(value["daemon"], CanaryCounts())
        counts[value["daemon"]] = CanaryCounts(
            max(known.messages, value["messages"]),
            max(known.dead_letters, value["dead_letters"]),
            max(known.failed, value["failed"]),
        )
        while len(counts) > MAX_DAEMONS:
            oldest = next(name for name in counts if name != OTHERS)
            counts[OTHERS] = counts.get(OTHERS, CanaryCounts()) + counts.pop(oldest)
        found = CanaryRecord(self.round, counts, self.fallback)
        total = found.total
        too_many = total.failures > value["failures"] * total.messages
        if found.fallback is None and total.messages >= value["after"] and too_many:
            reason = (
                f"{total.dead_letters} dead letters and {total.failed} failed instances of {total.messages} messages, "
                f"more than {value['failures'] * 100:g} %"
            )
            return CanaryRecord(self.round, counts, Fallback(value["at"], BRIDGE, reason))
        return found
