"""Positions of a group in the partitions of its topics: reading them, and moving them to other offsets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bridge.brokers.base import SubscribeOptions
from bridge.core.errors import BrokerError, wire_name
from bridge.core.message import Message

Place = tuple[str, int]
"""Topic and number of a partition."""


def place_name(place: Place) -> str:
    """Name of a partition, like `orders/0`."""
    return f"{place[0]}/{place[1]}"


def place_of(name: str) -> Place:
    """Partition of a name. Raises: ValueError."""
    topic, slash, number = name.rpartition("/")
    if not topic or not slash or not (number.isascii() and number.isdigit()):
        raise ValueError(f"{name!r} is not a partition like orders/0")
    return topic, int(number)


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """Position of a group in one partition.

    begin, end: first offset of the log, and the offset of the next record that the group could read.
    committed: offset that the group has committed; None before its first commit.
    start: first offset that the group would read now, inside of the log.
    done: offsets at or above `start` that the group has completed, ascending.
    member: member of the group that has the partition, as the broker names it; empty without one.
    stamp: see `Move`; 0 before the first move.
    """

    topic: str
    number: int
    begin: int
    end: int
    committed: int | None
    start: int
    done: tuple[int, ...] = ()
    member: str = ""
    stamp: int = 0

    @property
    def place(self) -> Place:
        return self.topic, self.number

    @property
    def lag(self) -> int:
        """Number of offsets that are not completed. Offsets without a message count on a log that has some."""
        return max(0, self.end - self.start - len(self.done))

    @property
    def lost(self) -> int:
        """Number of offsets that the group had not completed and that the log no longer has."""
        return 0 if self.committed is None else max(0, self.begin - self.committed)


@dataclass(frozen=True, slots=True)
class Move:
    """Order to move a group's position in one partition to an offset.

    stamp: number that grows with every move of a group. It is stored with the position: a partition whose position has
    an equal or later stamp was moved already. A move is therefore applied once, whatever crashes.
    """

    to: int
    stamp: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Applied move. before: committed offset before it; None where an earlier process has applied it."""

    to: int
    before: int | None


def kept_done(before: int, done: tuple[int, ...] | list[int], to: int) -> list[int]:
    """Completed offsets that a move keeps.

    A move forward skips messages, and those that were completed behind it stay completed. A move back repeats all
    messages from its target on.
    """
    return [offset for offset in done if offset >= to] if to >= before else []


@wire_name("bridge.errors.GroupActive")
class GroupActive(BrokerError):
    """The group has members, and only they can move its position."""

    reason = "group_active"


@runtime_checkable
class PositionedBroker(Protocol):
    """A broker with positions of groups. `start_reading` of `BacklogBroker` prepares for the reading methods."""

    async def positions(self, options: SubscribeOptions) -> list[GroupPosition]:
        """Positions in all existing partitions of the topics. Joins no group, and changes nothing.

        Raises: BrokerError, BrokerUnavailable.
        """
        ...

    async def offsets_at(self, places: Mapping[Place, GroupPosition], time: float) -> dict[Place, int]:
        """First offset whose message has this time or a later one, else the end, by partition.

        time: seconds since the Unix epoch. Raises: BrokerError, BrokerUnavailable.
        """
        ...

    def scan(
        self, options: SubscribeOptions, ranges: dict[Place, tuple[int, int]]
    ) -> AsyncIterator[tuple[Place, int, Message]]:
        """Messages between first offset and end of each range, in order within a partition.

        ranges: the caller may remove entries while it iterates: their partition is then read no further.
        Raises: BrokerError, BrokerUnavailable.
        """
        ...

    async def move(self, options: SubscribeOptions, moves: Mapping[Place, Move]) -> None:
        """Move the position of a group without members: all partitions, or none.

        Requires `Broker.start`. Raises: GroupActive, BrokerError, BrokerUnavailable.
        """
        ...


@runtime_checkable
class MovableSubscription(Protocol):
    """A subscription that can move the position in its own partitions."""

    async def move(self, moves: Mapping[Place, Move]) -> dict[Place, Moved]:
        """Move the position in those partitions that are assigned to this process; leave out the others.

        Deliveries of a partition are revoked as in a rebalance: the listener finishes those in flight. Reading
        continues at the new position, in a new assignment of the partition. The result has each partition whose
        stored position has the stamp of the move or a later one.
        """
        ...
