"""Reading a topic beside those who consume it: no group is joined, no position committed, no lock taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from bridge.message import Message, Position


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What to read.

    start: `earliest`, `latest` for what comes from now on, or the offset of the first message, in every partition.
    partition: None for all. follow: go on with what comes. Else a log ends with what was there at the beginning, and
    a queue when nothing more is.
    """

    topic: str
    start: Literal["earliest", "latest"] | int = "earliest"
    partition: int | None = None
    follow: bool = False

    def first(self, begin: int, end: int) -> int:
        """The offset to begin with, of a partition that has those from `begin` up to `end`."""
        match self.start:
            case "earliest":
                return begin
            case "latest":
                return end
            case offset:
                return min(max(offset, begin), end)


@runtime_checkable
class ReadableBroker(Protocol):
    """A broker whose topics can be read without consuming them."""

    def read(self, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        """Messages with where they stand, in order within a partition; to be closed when it is left early.

        Raises: BrokerError when there is no such topic or partition, BrokerUnavailable.
        """
        ...
