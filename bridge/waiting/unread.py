"""Messages that this process has stored on an engine, and that the states of their queues do not show yet."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Collection

_SECONDS = 150.0
"""Seconds for which a message is expected in the state. A queue shows delivered and refused ones for longer."""

_MOST_QUEUES = 10_000
"""Most queues with such messages, the latest ones. A state usually shows a message within milliseconds."""


class UnreadMessages:
    """Messages that an engine has accepted for a queue, until a read of the queue shows them.

    Engines count the operations of an entity that wait, and some leave out the operations that a worker is processing.
    Without this memory a read in that time would show neither the message nor a waiting operation, and the next message
    of the same lane would overtake it.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()
        """Begin and end of the call that has stored each message, by queue and mark."""

    def add(self, queue: str, mark: str, began: float) -> None:
        """Note a message that the engine has accepted.

        queue: key of the queue's entity. mark: identity of the message in the queue.
        began: time of the call, in monotonic seconds.
        """
        self._sent.setdefault(queue, {})[mark] = (began, time.monotonic())
        self._sent.move_to_end(queue)
        if len(self._sent) > _MOST_QUEUES:
            self._sent.popitem(last=False)

    def remain(self, queue: str, shown: Collection[str]) -> bool:
        """Return whether messages of a queue still do not show. shown: marks in its state."""
        sent = self._sent.get(queue)
        if sent is None:
            return False
        # A queue processes in order: what was accepted before a call began is processed before that call
        processed = max((began for mark, (began, _) in sent.items() if mark in shown), default=-math.inf)
        since = max(processed, time.monotonic() - _SECONDS)
        left = {mark: times for mark, times in sent.items() if mark not in shown and times[1] > since}
        if left:
            self._sent[queue] = left
        else:
            del self._sent[queue]
        return bool(left)
