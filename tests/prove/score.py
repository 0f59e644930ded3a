"""Score of the messages of a key: lost, doubled, out of order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of messages. out_of_order: messages whose first effect came after that of a greater number."""

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.sent + other.sent,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.out_of_order + other.out_of_order,
        )

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order)


def score(sent: Mapping[str, int], seen: Mapping[str, Sequence[int]]) -> Score:
    """Compute the score.

    sent: number of messages by key, numbered from 0. seen: numbers with an effect by key, in order.
    """
    return sum((_of_key(count, seen.get(key, ())) for key, count in sent.items()), Score())


def _of_key(count: int, numbers: Sequence[int]) -> Score:
    firsts = list(dict.fromkeys(numbers))
    return Score(count, len(set(range(count)) - set(firsts)), len(numbers) - len(firsts), _inversions(firsts))


def _inversions(numbers: Iterable[int]) -> int:
    greatest, found = -1, 0
    for number in numbers:
        found += number < greatest
        greatest = max(greatest, number)
    return found
