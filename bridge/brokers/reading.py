"""Reading of a topic beside its consumers: no group is joined, no position committed, no lock taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from bridge.core.message import Message, Position


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Range of messages to read.

    start: `earliest`, `latest` for future messages only, or the offset of the first message in every partition.
    partition: None for all. follow: continue with future messages. Without `follow`, a log ends with the messages that
    existed at the beginning, and a queue when no message is left.
    """

    topic: str
    start: Literal["earliest", "latest"] | int = "earliest"
    partition: int | None = None
    follow: bool = False

    def first(self, begin: int, end: int) -> int:
        """First offset to read in a partition that has the offsets from `begin` up to `end`."""
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
        """Messages with their positions, in order within a partition. Close the iterator when leaving it early.

        Raises: BrokerError when there is no such topic or partition, BrokerUnavailable.
        """
        ...
