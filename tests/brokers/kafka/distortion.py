"""Wrong answers of a Kafka broker: damaged bytes, and well-formed answers with other contents."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import aiokafka.protocol
from aiokafka.protocol.api import RequestStruct, Response

SYNC_GROUP = 14
FREQUENT = {0: 0.1, 1: 0.2, 18: 0.2}
"""Factors of the share by API key, where answers are so frequent that the others would go unharmed."""
ANSWERS: dict[tuple[int, int], type[Response]] = {}
"""Layouts of answers by API key and version."""

INTEGERS = (-(2**63), -(2**31), -(2**15), -2, -1, 0, 1, 2, 7, 2**7 - 1, 2**15 - 1, 2**31 - 1, 2**63 - 1)
TEXTS = (None, "", "\0", "x", "127.0.0.2", "a" * 300)
"""Texts that are no host names which a resolver would look for."""

for found in pkgutil.iter_modules(aiokafka.protocol.__path__):
    for each in vars(importlib.import_module(f"aiokafka.protocol.{found.name}")).values():
        if isinstance(each, type) and issubclass(each, RequestStruct) and hasattr(each, "RESPONSE_TYPE"):
            ANSWERS[each.API_KEY, each.API_VERSION] = each.RESPONSE_TYPE  # type: ignore[attr-defined]  # of the class behind the interface


def frame_of(correlation: bytes, answer: Response) -> bytes:
    body = correlation + answer.encode()
    return struct.pack(">i", len(body)) + body


def rewritten(key: int, version: int, frame: bytes, change: Callable[[Response], None]) -> bytes:
    """Frame of the same answer after `change`."""
    answer = ANSWERS[key, version].decode(frame[8:])
    change(answer)
    return frame_of(frame[4:8], answer)


def _unfrozen(value: Any) -> Any:
    return [_unfrozen(each) for each in value] if isinstance(value, list | tuple) else value


def _places(values: list[Any]) -> Iterator[tuple[list[Any], int]]:
    for at, value in enumerate(values):
        yield values, at
        if isinstance(value, list):
            yield from _places(value)


def _changed(draw: random.Random, value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return draw.choice((*INTEGERS, value + 1, value - 1))
        case str():
            return draw.choice(TEXTS)
        case bytes():
            return draw.choice((None, b"", value[: len(value) // 2], draw.randbytes(len(value))))
        case list() if value:
            at = draw.randrange(len(value))
            other = copy.deepcopy(value[at])
            return draw.choice((None, [], value[:at] + value[at + 1 :], [*value, other], value[::-1]))
        case _:
            return None


def restructured(draw: random.Random, key: int, version: int, frame: bytes) -> bytes:
    """Frame of an answer with one other value, list or element."""
    layout = ANSWERS[key, version]
    answer = layout.decode(frame[8:])
    values = _unfrozen([getattr(answer, name) for name in layout.SCHEMA.names])
    places = list(_places(values))
    for _ in range(50):
        where, at = draw.choice(places)
        before = where[at]
        where[at] = _changed(draw, before)
        try:
            return frame_of(frame[4:8], layout(*values))
        except Exception:  # aiokafka's encoding of a value that its field cannot hold
            where[at] = before
    return frame


class Distortion:
    """Alteration of a share of the answers of a server."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self.count = 0

    def __call__(self, key: int, version: int, frame: bytes) -> bytes:
        draw = self._random
        if draw.random() > self._share * FREQUENT.get(key, 1.0):
            return frame
        self.count += 1
        body = bytearray(frame[4:])
        at = draw.randrange(len(body))
        # Partitions that are kept from a member are nothing that it could notice before the next rebalance
        match draw.randrange(6 if key == SYNC_GROUP else 15):
            case 0:
                return struct.pack(">i", draw.choice([-1, -(2**31), 2**31 - 1, 10**9])) + body
            case 1:
                body = body[:at]
            case 2:
                body[:4] = draw.randbytes(4)  # the correlation id
            case 3:
                raise ConnectionError
            case 4:
                body = body[:4] + draw.randbytes(draw.randrange(200))
            case 5:
                return frame + frame
            case 6:
                body[at : at + 4] = struct.pack(">i", draw.choice([-1, -2, 2**31 - 1, 2**20, 0]))
            case 7:
                body[at] = draw.randrange(256)
            case 8:
                body[4:] = bytes(len(body) - 4)
            case _:
                return restructured(draw, key, version, frame)
        return struct.pack(">i", len(body)) + body


def honest(key: int, version: int, frame: bytes) -> bytes:
    return frame
