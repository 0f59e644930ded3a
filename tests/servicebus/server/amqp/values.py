"""What decoded values are made of, where Python has no type of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Malformed(ValueError):
    """Bytes that are not AMQP 1.0, or not what this place of a frame allows."""


class Symbol(str):
    """AMQP's symbol: ASCII, a type of its own on the wire, equal to the string of the same characters here."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor, which is a number or a symbol."""

    descriptor: Any
    value: Any
