"""Syntax tree of a compiled expression with expanded macros, read from the serialized form of the CEL library.

The form is the public message `cel.expr.CheckedExpr` (https://github.com/google/cel-spec). No protobuf package with
its descriptors is installed, and reading the few fields takes fewer lines than declaring them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Const:
    """A literal: its text or bytes; None for a number, a boolean or null."""

    value: str | bytes | None


@dataclass(frozen=True, slots=True)
class Ident:
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `has(operand.field)` if `tests` is true."""

    operand: Node
    field: str
    tests: bool


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A function or operator. args: arguments; the target of a method comes first."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list or map literal: its elements, or its keys and values."""

    members: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A macro over a range, or `cel.bind`, whose range is empty."""

    variable: str
    range: Node
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node


Node = Const | Ident | Select | FunctionCall | Items | Loop

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read(serialized: bytes) -> Node:
    """Read the tree of a serialized expression. Raises: ValueError for anything else."""
    try:
        packed = dict(_fields(serialized))  # a google.protobuf.Any
        return _node(dict(_fields(packed[2]))[4])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("not a serialized CEL expression") from error


def _node(data: bytes) -> Node:
    for field, body in _fields(data):
        match field:
            case 3:
                return _const(dict(_fields(body)))
            case 4:
                return Ident(dict(_fields(body))[1].decode())
            case 5:
                members = dict(_fields(body))
                return Select(_node(members[1]), members[2].decode(), bool(members.get(3)))
            case 6:
                parts = list(_fields(body))
                target = [_node(part) for number, part in parts if number == 1]
                return FunctionCall(
                    dict(parts)[2].decode(), (*target, *(_node(part) for number, part in parts if number == 3))
                )
            case 7:
                return Items(tuple(_node(part) for number, part in _fields(body) if number == 1))
            case 8:
                entries = [dict(_fields(part)) for number, part in _fields(body) if number == 2]
                return Items(tuple(_node(entry[place]) for entry in entries for place in (3, 4)))
            case 9:
                loop = dict(_fields(body))
                start, condition, step, result = (_node(loop[place]) for place in (4, 5, 6, 7))
                return Loop(loop[1].decode(), _node(loop[2]), loop[3].decode(), start, condition, step, result)
    raise ValueError("an expression of a kind that is not known")


def _const(members: dict[int, Any]) -> Const:
    if 6 in members:
        return Const(members[6].decode())
    return Const(members.get(7))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protobuf message, in order, as integers and bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == _VARINT:
            yield tag >> 3, varint()
            continue
        if kind not in (_BYTES, _FIXED64, _FIXED32):
            raise ValueError("not a protobuf message")
        length = varint() if kind == _BYTES else 8 if kind == _FIXED64 else 4
        yield tag >> 3, data[at : at + length]
        at += length
