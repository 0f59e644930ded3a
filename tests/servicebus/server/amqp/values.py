"""Types of decoded AMQP values that have no Python equivalent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Malformed(ValueError):
    """Raised for bytes that are not AMQP 1.0, or not allowed at their place in a frame."""


class Symbol(str):
    """AMQP symbol: ASCII, a distinct type on the wire; equal to the string with the same characters."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """Value with a descriptor; the descriptor is a number or a symbol."""

    descriptor: Any
    value: Any
