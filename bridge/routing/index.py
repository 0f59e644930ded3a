"""Index of the equalities of `match:`. A message costs the same among ten rules and among ten thousand.

Rules are grouped by the keys they test (their shape). In each shape, values map to rules. Rules that test `type` are
first grouped by its value, and only the shapes in use for the message's type are examined.
Header names are compared as written; CloudEvents uses lower case. Values are compared as JSON: 1 equals 1.0, true
does not equal 1, and a missing or null value equals nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from bridge.core.message import Envelope

ATTRIBUTES: Mapping[str, Callable[[Envelope], Any]] = {
    "type": lambda envelope: envelope.type,
    "source": lambda envelope: envelope.source,
    "subject": lambda envelope: envelope.subject,
    "id": lambda envelope: envelope.id,
    "topic": lambda envelope: envelope.position.topic,
    "key": lambda envelope: envelope.key,
    "datacontenttype": lambda envelope: envelope.datacontenttype,
    "dataschema": lambda envelope: envelope.dataschema,
}

_COMBINATIONS = 1024
"""Maximum number of value combinations of one rule in the index. Beyond it, the longest lists are tested one by one."""

ValueReader = Callable[[Envelope], Any]


class _Missing:
    """Value that equals no value of a rule."""


_MISSING = _Missing()
_TRUE = ("true",)
_FALSE = ("false",)

Match = Mapping[str, Any]
"""Equalities of a rule: for each key a scalar, or several scalars of which any may be equal."""


def canonical(value: Any) -> Any:
    """Hashable form of a value for which Python's equality is that of JSON: true and 1 differ."""
    kind = value.__class__
    if kind is str:
        return value
    if kind is bool:
        return _TRUE if value else _FALSE
    if kind is int or kind is float:
        return value
    return value if isinstance(value, str) else _MISSING


def values(wanted: Any) -> tuple[Any, ...]:
    """Canonical values that a match names for one key, without repeats.

    NaN is left out: it equals nothing, but a dict would find it.
    """
    several = wanted if isinstance(wanted, tuple | list) else (wanted,)
    return tuple(dict.fromkeys(canonical(value) for value in several if value == value))


def reader(key: str) -> ValueReader:
    """Function that reads the canonical value of a key of `match:`.

    Raises: ValueError with the remedy for an unknown key.
    """
    if key in ATTRIBUTES:
        attribute = ATTRIBUTES[key]
        return lambda envelope: canonical(attribute(envelope))
    room, _, name = key.partition(".")
    if name and room == "headers":
        return lambda envelope: canonical(envelope.headers.get(name))
    if name and room == "extensions":
        return lambda envelope: canonical(envelope.extensions.get(name))
    if room == "payload" and all(path := tuple(name.split("."))):
        return _payload_reader(path)
    raise ValueError(
        f"{key!r} cannot be matched; use one of {', '.join(ATTRIBUTES)}, headers.<name>, extensions.<name>, "
        "payload.<path>, or write a condition with `when`"
    )


def _payload_reader(path: tuple[str, ...]) -> ValueReader:
    if len(path) == 1:
        only = path[0]

        def member(envelope: Envelope) -> Any:
            payload = envelope.data
            return canonical(payload.get(only)) if isinstance(payload, Mapping) else _MISSING

        return member

    def read(envelope: Envelope) -> Any:
        value = envelope.data
        for name in path:
            if not isinstance(value, Mapping):
                return _MISSING
            value = value.get(name)
        return canonical(value)

    return read


@dataclass(slots=True)
class _Shapes:
    """Positions of rules by shape, then by values."""

    single: dict[str, tuple[ValueReader, dict[Any, list[int]]]] = field(default_factory=dict)
    several: dict[tuple[str, ...], tuple[tuple[ValueReader, ...], dict[Any, list[int]]]] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)

    def add(self, position: int, match: Mapping[str, tuple[Any, ...]]) -> None:
        keys = tuple(sorted(match))
        if not keys:
            self.always.append(position)
        elif len(keys) == 1:
            by_value = self.single.setdefault(keys[0], (reader(keys[0]), {}))[1]
            for value in match[keys[0]]:
                by_value.setdefault(value, []).append(position)
        else:
            by_values = self.several.setdefault(keys, (tuple(map(reader, keys)), {}))[1]
            for combination in product(*(match[key] for key in keys)):
                by_values.setdefault(combination, []).append(position)

    def collect(self, envelope: Envelope, found: list[list[int]]) -> None:
        if self.always:
            found.append(self.always)
        for read, by_value in self.single.values():
            if positions := by_value.get(read(envelope)):
                found.append(positions)
        for readers, by_values in self.several.values():
            if positions := by_values.get(tuple([read(envelope) for read in readers])):
                found.append(positions)


class RuleIndex:
    """Index of the rules whose equalities a message fulfils."""

    def __init__(self, matches: Sequence[Match]) -> None:
        """Create an index.

        matches: equalities of each rule, in order. Raises: ValueError for an unknown key.
        """
        self._by_type: dict[Any, _Shapes] = {}
        self._remaining = _Shapes()
        self._left_over: dict[int, tuple[tuple[ValueReader, frozenset[Any]], ...]] = {}
        for position, match in enumerate(matches):
            self._add(position, {key: values(wanted) for key, wanted in match.items()})
        self._has_remaining = self._remaining != _Shapes()
        # The most common configuration, and the cheapest: rules that test only their type
        self._plain = {
            kind: shapes.always
            for kind, shapes in self._by_type.items()
            if not (self._has_remaining or self._left_over or shapes.single or shapes.several)
        }

    def _add(self, position: int, match: dict[str, tuple[Any, ...]]) -> None:
        types = match.pop("type", None)
        left_over = []
        while _combinations(match.values()) > _COMBINATIONS:
            longest = max(match, key=lambda key: len(match[key]))
            left_over.append((reader(longest), frozenset(match.pop(longest))))
        if left_over:
            self._left_over[position] = tuple(left_over)
        if types is None:
            self._remaining.add(position, match)
            return
        for kind in types:
            self._by_type.setdefault(kind, _Shapes()).add(position, match)

    def candidates(self, envelope: Envelope) -> Iterable[int]:
        """Positions of matching rules in ascending order, without repeats.

        Later positions are computed only on demand.
        """
        plain = self._plain.get(envelope.type)
        if plain is not None:
            return plain
        found: list[list[int]] = []
        shapes = self._by_type.get(envelope.type)
        if shapes is not None:
            shapes.collect(envelope, found)
        if self._has_remaining:
            self._remaining.collect(envelope, found)
        if not found:
            return ()
        merged: Iterable[int] = found[0] if len(found) == 1 else heapq.merge(*found)
        return self._checked(merged, envelope) if self._left_over else merged

    def _checked(self, positions: Iterable[int], envelope: Envelope) -> Iterable[int]:
        for position in positions:
            tests = self._left_over.get(position, ())
            if all(read(envelope) in wanted for read, wanted in tests):
                yield position


def _combinations(lists: Iterable[tuple[Any, ...]]) -> int:
    count = 1
    for several in lists:
        count *= len(several)
    return count
