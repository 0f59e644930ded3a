"""Messages that wait for a receiver, ordered by sequence number."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from tests.servicebus.server.message import Message


class Line:
    def __init__(self) -> None:
        self._waiting: dict[int, Message] = {}
        self._order: list[int] = []
        """Heap of sequence numbers; numbers of discarded messages stay until they reach the top."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._waiting.values())

    def add(self, message: Message) -> None:
        self._waiting[message.sequence_number] = message
        heapq.heappush(self._order, message.sequence_number)

    def discard(self, message: Message) -> bool:
        """Remove a message. Returns whether the message was present."""
        return self._waiting.pop(message.sequence_number, None) is not None

    def pop(self) -> Message | None:
        """Remove and return the first message; None when empty."""
        while self._order:
            message = self._waiting.pop(heapq.heappop(self._order), None)
            if message is not None:
                return message
        return None
