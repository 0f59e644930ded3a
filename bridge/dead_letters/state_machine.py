"""States of the dead letters of one block of offsets, and the effect of each operation. Pure.

A log such as Kafka cannot remove single records. The state of each dead letter is therefore stored beside the log, as
marks: sets of offsets (bitmaps) with the same state, job and reason. A dead letter without a mark is open.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge.core.states import DeadLetterState as DeadLetterState
from bridge.core.system_names import DEAD_LETTER_BLOCK

MOST_MARKS = 64
"""Marks of one block. Beyond it, ended marks with the same state become one, without job, person and reason."""

LONGEST_REASON = 500

_ENDED = (DeadLetterState.REPLAYED, DeadLetterState.RETURNED)

_RECENT = 32
"""Tokens of operations that a block remembers, the latest ones."""


@dataclass(frozen=True, slots=True)
class DeadLetterMark:
    """State of dead letters that are not open.

    job: id of the job that has made it; empty if unknown.
    at: time of the latest change, seconds since the Unix epoch.
    by, reason: person, and the text of the person.
    written: time of the youngest dead letter with this mark; infinity if unknown. A younger one at the same offset
    belongs to another log: the topic was deleted and created again.
    """

    state: DeadLetterState
    job: str = ""
    at: float = 0.0
    by: str = ""
    reason: str = ""
    written: float = math.inf

    @property
    def stated(self) -> bool:
        """True if the mark names its job, person or reason."""
        return bool(self.job or self.by or self.reason)

    def is_over(self, dropped_before: float) -> bool:
        """True if nobody needs the dead letter any more: a queue may complete its message.

        dropped_before: time before which dropped dead letters are not restored any more.
        """
        is_dropped = self.state is DeadLetterState.DROPPED
        return self.state in _ENDED or (is_dropped and self.at < dropped_before)

    def is_like(self, other: DeadLetterMark) -> bool:
        """True if the marks differ in times only."""
        return (self.state, self.job, self.by, self.reason) == (other.state, other.job, other.by, other.reason)


class BlockStates:
    """States of the dead letters of one block: `DEAD_LETTER_BLOCK` offsets of one partition.

    Operations take offsets of the log. Each is idempotent, and changes nothing where its condition does not hold.
    """

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        """Restore the states. document: result of `to_json`."""
        stored = document or {}
        self._marks = [(_mark(each), _bits(each["bits"])) for each in stored.get("marks", ())]
        self._recent: list[str] = list(stored.get("recent", ()))

    def __len__(self) -> int:
        """Number of different marks."""
        return len(self._marks)

    def to_json(self) -> dict[str, Any] | None:
        """States as JSON; None when all are open."""
        if not self._marks:
            return None
        recent = {"recent": self._recent} if self._recent else {}
        return {"v": 1, "marks": [_document(mark, bits) for mark, bits in self._marks], **recent}

    def has_applied(self, token: str) -> bool:
        """True if one of the last operations had this token. A block without marks remembers none."""
        return token in self._recent

    def mark(self, offset: int, written: float | None = None) -> DeadLetterMark | None:
        """Mark of a dead letter; None when it is open. written: time of the dead letter; None skips the check."""
        bit = 1 << offset % DEAD_LETTER_BLOCK
        for mark, bits in self._marks:
            if bits & bit:
                return mark if written is None or written <= mark.written else None
        return None

    def marks(self) -> Iterator[tuple[DeadLetterMark, list[int]]]:
        """Marks, each with the offsets inside the block that have it."""
        for mark, bits in self._marks:
            yield mark, list(_indexes(bits))

    def by_offset(self) -> dict[int, tuple[DeadLetterState, float]]:
        """State, and time of the youngest dead letter with the mark, by the offset inside the block."""
        return {each: (mark.state, mark.written) for mark, bits in self._marks for each in _indexes(bits)}

    def apply(self, operation: str, value: Mapping[str, Any]) -> None:
        """Apply an operation of the entity. Unknown operations of later versions change nothing.

        value: `job`, `at`, `by`, `reason`, and either `items` (offsets with the times of their dead letters) or
        `offsets`; `token`, where the sender waits for the operation. `forget` may have `below`, the number of offsets
        at the begin of the block to forget, and `before`: the time of the oldest dead letter of the block.
        """
        given = _given(value)
        offsets = _mask(value.get("offsets", ()))
        match operation:
            case "take":
                self._claim(replace(given, state=DeadLetterState.REPLAYING, reason=""), value["items"])
            case "drop":
                self._claim(replace(given, state=DeadLetterState.DROPPED), value["items"])
            case "replayed" | "returned":
                # A result may arrive after its job was aborted and has opened the dead letter
                self._move(replace(given, state=DeadLetterState(operation), reason=""), offsets)
            case "open":
                self._remove(offsets, (DeadLetterState.REPLAYING,), given.job)
            case "restore":
                self._remove(offsets, tuple(map(DeadLetterState, value.get("states", ("dropped",)))))
            case "forget":
                below = max(0, min(value.get("below", 0), DEAD_LETTER_BLOCK))
                self._remove(offsets | (1 << below) - 1, tuple(DeadLetterState))
                self._marks = [each for each in self._marks if each[0].written >= value.get("before", -math.inf)]
        if (token := value.get("token")) is not None:
            self._recent = [*self._recent, token][-_RECENT:]

    def _claim(self, mark: DeadLetterMark, items: Iterable[tuple[int, float | None]]) -> None:
        """Mark the dead letters that are open."""
        written = {offset % DEAD_LETTER_BLOCK: math.inf if time is None else time for offset, time in items}
        wanted = _mask(written)
        for index, (known, bits) in enumerate(self._marks):
            stale = _mask(each for each in _indexes(bits & wanted) if known.written < written[each] < math.inf)
            self._marks[index] = (known, bits & ~stale)
            wanted &= ~(bits & ~stale)
        if wanted:
            self._add(replace(mark, written=max(written[each] for each in _indexes(wanted))), wanted)
        self._tidy()

    def _move(self, mark: DeadLetterMark, offsets: int) -> None:
        """Mark the dead letters that are open, or that the job of the mark is replaying."""
        written, moved = -math.inf, 0
        for index, (known, bits) in enumerate(self._marks):
            if known.state is DeadLetterState.REPLAYING and known.job == mark.job and bits & offsets:
                self._marks[index] = (known, bits & ~offsets)
                written, moved = max(written, known.written), moved | bits & offsets
            else:
                offsets &= ~bits
        if offsets:
            self._add(replace(mark, written=written if offsets == moved else math.inf), offsets)
        self._tidy()

    def _remove(self, offsets: int, states: tuple[DeadLetterState, ...], job: str | None = None) -> None:
        self._marks = [
            (mark, bits & ~offsets if mark.state in states and job in (None, mark.job) else bits)
            for mark, bits in self._marks
        ]
        self._tidy()

    def _add(self, mark: DeadLetterMark, bits: int) -> None:
        for index, (known, others) in enumerate(self._marks):
            if known.is_like(mark):
                at, written = max(known.at, mark.at), max(known.written, mark.written)
                self._marks[index] = (replace(known, at=at, written=written), others | bits)
                return
        self._marks.append((mark, bits))

    def _tidy(self) -> None:
        self._marks = [(mark, bits) for mark, bits in self._marks if bits]
        while len(self._marks) > MOST_MARKS:
            ended = [each for each in self._marks if each[0].state is not DeadLetterState.REPLAYING and each[0].stated]
            if not ended:
                return
            oldest, bits = min(ended, key=lambda each: each[0].at)
            self._marks = [each for each in self._marks if each[0] is not oldest]
            self._add(replace(oldest, job="", by="", reason=""), bits)


def _given(value: Mapping[str, Any]) -> DeadLetterMark:
    reason = str(value.get("reason") or "")[:LONGEST_REASON]
    return DeadLetterMark(DeadLetterState.OPEN, value.get("job", ""), value.get("at", 0.0), value.get("by", ""), reason)


def _mark(document: Mapping[str, Any]) -> DeadLetterMark:
    written = document.get("written")
    return DeadLetterMark(
        DeadLetterState(document["state"]),
        document.get("job", ""),
        document.get("at", 0.0),
        document.get("by", ""),
        document.get("reason", ""),
        math.inf if written is None else written,
    )


def _document(mark: DeadLetterMark, bits: int) -> dict[str, Any]:
    texts = {name: text for name in ("job", "by", "reason") if (text := getattr(mark, name))}
    written = {} if mark.written == math.inf else {"written": mark.written}
    encoded = base64.b64encode(bits.to_bytes(-(-bits.bit_length() // 8), "little")).decode()
    return {"state": mark.state.value, "at": mark.at, **texts, **written, "bits": encoded}


def _bits(encoded: str) -> int:
    return int.from_bytes(base64.b64decode(encoded), "little")


def _mask(offsets: Iterable[int]) -> int:
    found = 0
    for offset in offsets:
        found |= 1 << offset % DEAD_LETTER_BLOCK
    return found


def _indexes(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
