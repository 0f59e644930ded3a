"""Assignment of partitions to members. Pure: every member computes the same result from the same members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A live consumer of a group. Ids sort by the time of joining."""

    id: str
    topics: tuple[str, ...]


def assign(members: Sequence[Member], partitions: Mapping[str, int]) -> dict[tuple[str, int], str]:
    """Member id by (topic, partition), as even as the members' topics allow.

    partitions: number of partitions by topic. Members take their share in the order of joining, each from the members
    with most partitions. A new member therefore moves no more partitions than it gets.
    """
    owners: dict[tuple[str, int], str] = {}
    held: dict[str, int] = {}
    for member in sorted(members):
        wanted = [(topic, number) for topic in sorted(set(member.topics)) for number in range(partitions.get(topic, 0))]
        held[member.id] = 0
        for place in wanted:
            if place not in owners:
                owners[place] = member.id
                held[member.id] += 1
        while True:
            taken = [place for place in wanted if owners[place] != member.id]
            if not taken:
                break
            place = max(taken, key=lambda place: held[owners[place]])
            if held[owners[place]] < held[member.id] + 2:
                break
            held[owners[place]] -= 1
            held[member.id] += 1
            owners[place] = member.id
    return owners
