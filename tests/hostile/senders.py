"""Five senders of hostile messages.

Each sender yields (topic, message) without end; a seed makes the messages repeatable.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from bridge.core.message import Headers, Message

KINDS = ("orders", "answers", "early")
"""Topics that the senders may write."""

Sender = Callable[[random.Random], Iterator[tuple[str, Message]]]


def _message(kind: str, value: object, key: str | None = None, headers: Headers = ()) -> Message:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Message(body, None if key is None else key.encode(), (("type", kind.encode()), *headers))


def malformed(rng: random.Random) -> Iterator[tuple[str, Message]]:
    """Send bodies that cannot be decoded, or that match no rule."""
    shapes: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"{",
        lambda: b"\xff\xfe" + rng.randbytes(200),
        lambda: b"[" * 100_000,
        lambda: b'{"a":' * 5_000,
        lambda: b'{"id": 1e999}',
        lambda: b'{"id": "\\ud800"}',
        lambda: b'{"id": "' + b"x" * 900_000 + b'"}',
        lambda: json.dumps({str(number): number for number in range(40_000)}).encode(),
    ]
    number = 0
    while True:
        number += 1
        key = f"m{rng.randrange(50)}"
        yield "orders", _message(rng.choice(("start", "fan", "nonsense")), rng.choice(shapes)(), key)


def expensive(rng: random.Random) -> Iterator[tuple[str, Message]]:
    """Send messages whose conditions and values cost much time or memory."""
    while True:
        size = rng.choice((1_000, 9_990))
        yield "orders", _message("member", {"id": "x", "a": list(range(10**6, 10**6 + size)), "b": [0] * 400_000})
        yield "orders", _message("text", {"id": "x", "a": "x" * 12_000, "b": "y" * 12_000})
        yield "orders", _message("match", {"id": "x", "a": "a" * 900_000 + "b"})


def multiplied(rng: random.Random) -> Iterator[tuple[str, Message]]:
    """Send large messages that result in many commands each."""
    number = 0
    while True:
        number += 1
        items = [f"{number}-{each}" for each in range(1_000)]
        yield "orders", _message("fan", {"items": items, "fill": "z" * 900_000}, f"f{rng.randrange(5)}")


def forged(rng: random.Random) -> Iterator[tuple[str, Message]]:
    """Send answers without a request, to running instances."""
    while True:
        target = f"order-{rng.randrange(40)}"
        correlation = f"{rng.randrange(2**32):08x}-1234-1234-1234-{rng.randrange(2**48):012x}@{target}"
        headers: Headers = (("correlation-id", correlation.encode()),)
        yield "answers", _message("answer", {"fill": "z" * 250_000}, headers=headers)


def early(rng: random.Random) -> Iterator[tuple[str, Message]]:
    """Send large events for instances that never start."""
    number = 0
    while True:
        number += 1
        yield "early", _message("early", {"id": f"none-{number}", "fill": "z" * 100_000}, f"e{rng.randrange(200)}")


SENDERS: dict[str, tuple[Sender, float]] = {
    "malformed": (malformed, 20.0),
    "expensive": (expensive, 3.0),
    "multiplied": (multiplied, 1.0),
    "forged": (forged, 10.0),
    "early": (early, 20.0),
}
"""Sender and its messages per second, by name."""
