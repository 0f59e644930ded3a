"""Facts of many dead letters in columns: one block of offsets takes about 30 bytes a dead letter. Pure."""

from __future__ import annotations

import json
import math
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bridge.core.dead_letter import DeadLetter
from bridge.core.system_names import DEAD_LETTER_BLOCK
from bridge.dead_letters.state_machine import BlockStates, DeadLetterState

_MAGIC = b"bridge dead letters 1\n"
_DETAIL_LIMIT = 500
_SEPARATOR = "\0"


class Facts(NamedTuple):
    """Facts that many dead letters have in common."""

    source: str | None
    route: str | None
    reason: str
    error: str
    format: str
    fingerprint: str
    config: str

    @classmethod
    def of(cls, dead_letter: DeadLetter, fingerprint: str) -> Facts:
        return cls(
            dead_letter.source,
            dead_letter.route,
            dead_letter.reason,
            dead_letter.error,
            dead_letter.format,
            fingerprint,
            dead_letter.config,
        )


class DeadLetterRow(NamedTuple):
    """One dead letter."""

    offset: int
    time: float | None
    facts: Facts
    detail: str
    state: DeadLetterState


@dataclass(slots=True)
class Summary:
    """Sum of dead letters with the same facts.

    first, last: times of the oldest and the youngest, seconds since the Unix epoch; None if no time is known.
    offset, detail: of the youngest.
    """

    count: int = 0
    first: float | None = None
    last: float | None = None
    offset: int = 0
    detail: str = ""

    def add(self, offset: int, time: float | None, detail: str) -> None:
        self.count += 1
        if time is not None:
            self.first = time if self.first is None else min(self.first, time)
        if time is None or self.last is None or time >= self.last:
            self.last = self.last if time is None else time
            self.offset, self.detail = offset, detail

    def join(self, other: Summary) -> None:
        """Add other dead letters with the same facts."""
        self.count += other.count
        if other.first is not None:
            self.first = other.first if self.first is None else min(self.first, other.first)
        if other.last is not None and (self.last is None or other.last >= self.last):
            self.last, self.offset, self.detail = other.last, other.offset, other.detail


@dataclass(slots=True)
class Rows:
    """Dead letters of one block of one partition, oldest first.

    first: first offset of the block.
    begin, end: range of offsets that was read.
    anchor: offset and digest of the last dead letter: a log that still has it is still the same log.
    """

    first: int
    begin: int
    end: int
    anchor: tuple[int, str] | None = None
    table: list[Facts] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    _offsets: array[int] = field(default_factory=lambda: array("H"))
    _times: array[float] = field(default_factory=lambda: array("d"))
    _facts: array[int] = field(default_factory=lambda: array("H"))
    _details: list[str] | bytes = field(default_factory=list)
    _known: dict[Facts, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(each.count for each in self.summaries)

    @property
    def last(self) -> int:
        """Offset of the last dead letter. Only with the columns."""
        return self.first + self._offsets[-1]

    def set_anchor(self, digest: str) -> None:
        """Record the digest of the last dead letter. Only with the columns."""
        self.anchor = (self.last, digest)

    def read_up_to(self, end: int) -> bool:
        """Record the end of the range that was read; return whether it has changed."""
        before, self.end = self.end, end
        return before != end

    @property
    def is_loaded(self) -> bool:
        """False without the columns: only the sums are known."""
        return len(self._offsets) == len(self)

    def unload(self) -> None:
        """Remove the columns from memory. Sums stay."""
        self._offsets, self._times, self._facts, self._details = array("H"), array("d"), array("H"), []

    def add(self, offset: int, time: float | None, facts: Facts, detail: str) -> None:
        """Add a dead letter behind the others."""
        index = self._known.get(facts)
        if index is None:
            index = self._known[facts] = len(self.table)
            self.table.append(facts)
            self.summaries.append(Summary())
        detail = detail.replace(_SEPARATOR, " ")[:_DETAIL_LIMIT]
        self._append(offset, math.nan if time is None else time, index, detail)
        self.summaries[index].add(offset, time, detail)

    def _append(self, offset: int, time: float, index: int, detail: str) -> None:
        self._offsets.append(offset - self.first)
        self._times.append(time)
        self._facts.append(index)
        self._texts().append(detail)

    def _texts(self) -> list[str]:
        if isinstance(self._details, bytes):
            self._details = (
                zlib.decompress(self._details).decode("utf-8", "surrogatepass").split(_SEPARATOR)
                if self._details
                else []
            )
        return self._details

    def rows(self) -> Iterator[tuple[int, float | None, Facts]]:
        """Offset, time and facts of each dead letter."""
        for offset, time, index in zip(self._offsets, self._times, self._facts, strict=True):
            yield self.first + offset, None if math.isnan(time) else time, self.table[index]

    def sums(self, selection: RowSelection) -> Iterator[tuple[Facts, Summary]]:
        """Sums of the chosen dead letters by their facts. Facts without one are left out."""
        states = self._states(selection)
        if self.is_summed(selection):
            if DeadLetterState.OPEN in selection.wanted:
                yield from ((self.table[index], self.summaries[index]) for index in states)
            return
        found: dict[int, Summary] = {}
        details = self._texts()
        for row, (offset, time, index) in enumerate(zip(self._offsets, self._times, self._facts, strict=True)):
            if index in states and selection.holds(time, states[index], offset):
                known = None if math.isnan(time) else time
                found.setdefault(index, Summary()).add(self.first + offset, known, details[row])
        yield from ((self.table[index], summary) for index, summary in sorted(found.items()))

    def is_summed(self, selection: RowSelection) -> bool:
        """True if `sums` needs no columns: neither times nor states are asked for."""
        return not selection.has_times and all(
            selection.states(facts, self.first) is None for facts in self.table if selection.facts(facts)
        )

    def chosen(self, selection: RowSelection) -> Iterator[tuple[int, float | None, Facts]]:
        """Offset, time and facts of the chosen dead letters."""
        states = self._states(selection)
        for offset, time, index in zip(self._offsets, self._times, self._facts, strict=True):
            if index in states and selection.holds(time, states[index], offset):
                yield self.first + offset, None if math.isnan(time) else time, self.table[index]

    def listed(self, selection: RowSelection) -> Iterator[DeadLetterRow]:
        """The chosen dead letters with their details and states."""
        states, details = self._states(selection), self._texts()
        for row, (offset, time, index) in enumerate(zip(self._offsets, self._times, self._facts, strict=True)):
            if index in states and selection.holds(time, states[index], offset):
                known = None if math.isnan(time) else time
                state = selection.state(time, states[index], offset)
                yield DeadLetterRow(self.first + offset, known, self.table[index], details[row], state)

    def _states(self, selection: RowSelection) -> dict[int, Mapping[int, tuple[DeadLetterState, float]] | None]:
        """States by offset for the facts of the selection; None if all are open."""
        found: dict[int, Mapping[int, tuple[DeadLetterState, float]] | None] = {}
        for index, facts in enumerate(self.table):
            if selection.facts(facts):
                block = selection.states(facts, self.first)
                found[index] = None if block is None else block.by_offset()
        return found

    def since(self, begin: int) -> Rows:
        """Same block without the dead letters below an offset, which retention has removed."""
        if begin <= self.first:
            return self
        anchor = None if self.anchor is None or self.anchor[0] < begin else self.anchor
        kept = Rows(self.first, max(self.begin, begin), self.end, anchor)
        details = self._texts()
        for row, (offset, time, facts) in enumerate(self.rows()):
            if offset >= begin:
                kept.add(offset, time, facts, details[row])
        return kept

    def to_bytes(self) -> bytes:
        """Rows for a file, with a checksum."""
        details = self._details
        if isinstance(details, list):
            details = zlib.compress(_SEPARATOR.join(details).encode("utf-8", "surrogatepass"), 1) if details else b""
        columns = [self._offsets.tobytes(), self._times.tobytes(), self._facts.tobytes(), details]
        header = {
            "order": sys.byteorder, "first": self.first, "begin": self.begin, "end": self.end, "anchor": self.anchor,
            "table": [list(each) for each in self.table], "sizes": [len(each) for each in columns],
            "summaries": [[each.count, each.first, each.last, each.offset, each.detail] for each in self.summaries],
        }  # fmt: skip
        encoded = json.dumps(header, separators=(",", ":")).encode()
        body = b"".join([len(encoded).to_bytes(4, "little"), encoded, *columns])
        return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Rows | None:
        """Rows of a file; None if the file is damaged, or of another version or machine."""
        start = len(_MAGIC) + 4
        if not data.startswith(_MAGIC) or zlib.crc32(data[start:]).to_bytes(4, "little") != data[start - 4 : start]:
            return None
        try:
            size = int.from_bytes(data[start : start + 4], "little")
            header: dict[str, Any] = json.loads(data[start + 4 : start + 4 + size])
            if header["order"] != sys.byteorder:
                return None
            columns, at = [], start + 4 + size
            for length in header["sizes"]:
                columns.append(data[at : at + length])
                at += length
            anchor = header["anchor"]
            rows = cls(
                header["first"], header["begin"], header["end"], None if anchor is None else (anchor[0], anchor[1]),
                [Facts(*each) for each in header["table"]], [Summary(*each) for each in header["summaries"]],
            )  # fmt: skip
            rows._offsets.frombytes(columns[0])
            rows._times.frombytes(columns[1])
            rows._facts.frombytes(columns[2])
            rows._details = columns[3]
        except (ValueError, TypeError, KeyError, IndexError):
            return None
        rows._known = {facts: index for index, facts in enumerate(rows.table)}
        return rows


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Selection of dead letters by their columns.

    facts: condition on the common facts.
    states: states of the block with this first offset, on the engine of the source; None: all are open.
    wanted: states of the chosen dead letters.
    since, until: range of their times, seconds since the Unix epoch.
    """

    facts: Callable[[Facts], bool]
    states: Callable[[Facts, int], BlockStates | None]
    wanted: frozenset[DeadLetterState]
    since: float | None = None
    until: float | None = None

    @property
    def has_times(self) -> bool:
        return self.since is not None or self.until is not None

    def holds(self, time: float, states: Mapping[int, tuple[DeadLetterState, float]] | None, offset: int) -> bool:
        """True for a dead letter of chosen facts. time: not a number if unknown. offset: inside its block."""
        if self.has_times and not (
            (self.since is None or time >= self.since) and (self.until is None or time < self.until)
        ):
            return False
        return self.state(time, states, offset) in self.wanted

    @staticmethod
    def state(time: float, states: Mapping[int, tuple[DeadLetterState, float]] | None, offset: int) -> DeadLetterState:
        """State of a dead letter; see `holds`. A state that is older than the dead letter is that of another one."""
        found = None if states is None else states.get(offset)
        return DeadLetterState.OPEN if found is None or found[1] < time else found[0]


def block_of(offset: int) -> int:
    """First offset of the block of an offset."""
    return offset - offset % DEAD_LETTER_BLOCK
