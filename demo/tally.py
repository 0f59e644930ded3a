"""Counts of a stream of messages, in one form for expected and observed results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of results.

    orders, early, returns, parcels: number of workflows by status. `early` are orders that were paid before they
    arrived.
    dead_letters: by (source, reason).
    quarantine: messages of poisoned keys, by event.
    settled: settled messages.
    replayed: settled messages that were replayed dead letters.
    duplicates: repeated messages that were dropped.
    published: results that workflows published.
    waiting: messages that wait at the end.
    work: numbers of the work on dead letters at the end; empty before it.
    """

    orders: Counter[str] = field(default_factory=Counter)
    early: Counter[str] = field(default_factory=Counter)
    returns: Counter[str] = field(default_factory=Counter)
    parcels: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[tuple[str, str]] = field(default_factory=Counter)
    quarantine: Counter[str] = field(default_factory=Counter)
    settled: int = 0
    replayed: int = 0
    duplicates: int = 0
    published: int = 0
    waiting: int = 0
    work: dict[str, int] = field(default_factory=dict)

    def rows(self) -> dict[tuple[str, str], int]:
        """Counts by (what, which), in display order."""
        rows: dict[tuple[str, str], int] = {("messages", "settled"): self.settled}
        groups = {
            "orders": self.orders, "orders paid early": self.early, "returns": self.returns, "parcels": self.parcels,
            "quarantine": self.quarantine,
        }  # fmt: skip
        for what, counts in groups.items():
            rows |= {(what, which): counts[which] for which in sorted(counts) if counts[which]}
        rows["messages", "dropped as duplicates"] = self.duplicates
        for (source, reason), count in sorted(self.dead_letters.items()):
            rows["dead letters", f"{source}: {reason}"] = count
        rows["dead letters", "replayed"] = self.replayed
        rows |= {("dead letters", what): count for what, count in self.work.items()}
        rows["messages", "still waiting"] = self.waiting
        rows["results", "published"] = self.published
        return rows


def differences(expected: Tally, observed: Tally) -> list[str]:
    """Sentences for the counts that differ from the expected ones; empty if none does."""
    wanted, found = expected.rows(), observed.rows()
    keys = [*wanted, *(key for key in found if key not in wanted)]
    return [
        f"{what}, {which}: expected {wanted.get((what, which), 0)}, found {found.get((what, which), 0)}"
        for what, which in keys
        if wanted.get((what, which), 0) != found.get((what, which), 0)
    ]
