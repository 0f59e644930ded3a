"""Private parts of aiokafka: how a connection reads its answers, and how a group fares.

The client is as it was where they are not found.
tests/brokers/kafka/test_hostile_broker.py fails when this has lost its grip.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest

OTHERS = 16 << 20
"""Bytes of an answer that brings no records; one about 100,000 partitions has 5 million."""

_FETCH = FetchRequest.API_KEY
_SIZE = struct.Struct(">i")


@dataclass(slots=True)
class Answers:
    """Bounds of answers. records: bytes of one that brings records."""

    records: int


class AnswerRefused(ConnectionError):
    """The peer announces an answer that is beyond the bounds, or that nobody asked for; the connection ends."""


_bounds = Answers(0)


def bound_answers(bounds: Answers) -> None:
    """Let the clients of this process read no larger answers than the widest of these bounds.

    The client itself holds an answer of any size that its peer announces, before it looks into it. Bounds are those of
    the process, since a connection does not know for whom it was made.
    """
    _bounds.records = max(_bounds.records, bounds.records)
    if hasattr(AIOKafkaConnection, "_read") and hasattr(AIOKafkaConnection, "_do_version_lookup"):
        AIOKafkaConnection._read = staticmethod(_read)
        AIOKafkaConnection._do_version_lookup = _do_version_lookup
        AIOKafkaConnection.send = _send


async def _read(self_ref: Any) -> None:
    """The client's own loop with a look at the announced size."""
    self = self_ref()
    if self is None:
        return
    reader = self._reader
    del self
    while True:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        self = self_ref()
        if self is None:
            return
        if not self._requests:
            raise AnswerRefused("the broker sent an answer without a request")
        _check(size, self._requests[0][1])
        del self
        answer = await reader.readexactly(size)
        self = self_ref()
        if self is None:
            return
        self._handle_frame(answer)
        del self


def _check(size: int, request: Any) -> None:
    """request: None for a token. Raises: AnswerRefused."""
    most = _bounds.records if getattr(request, "API_KEY", None) == _FETCH else min(OTHERS, _bounds.records)
    if not 0 <= size <= most:
        raise AnswerRefused(f"an answer of {size} bytes was announced; at most {most} are allowed")


_version_lookup = AIOKafkaConnection._do_version_lookup


async def _do_version_lookup(self: Any) -> None:
    """The client's own, whose assertions about the answer are errors of the peer."""
    try:
        await _version_lookup(self)
    except (AssertionError, TypeError) as error:
        raise KafkaConnectionError("the API versions of the broker are not valid") from error


_send_at_once = AIOKafkaConnection.send


def _send(self: Any, request: Any, expect_response: bool = True) -> Any:
    """Send as the client does; close a connection whose peer announced no version of a request that is needed.

    A connection keeps the versions of its first answer. The client would try the same one for ever, also where the peer
    has become another, or was wrong.
    """
    try:
        return _send_at_once(self, request, expect_response)
    except IncompatibleBrokerVersion:
        self.close(reason=CloseReason.OUT_OF_SYNC)
        raise


def check_group(consumer: Any) -> None:
    """Raise the error that ended the client's work for its group, also while no partitions are assigned."""
    check = getattr(getattr(consumer, "_coordinator", None), "check_errors", None)
    if check is not None:
        check()
