"""Cursors: a long list is read in parts, and each part has the cursor of the next one.

A cursor holds the place of the last entry of a part in the order of its list. Entries that are added or removed
meanwhile move no other entry to another part.
"""

from __future__ import annotations

import heapq
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import Field

from bridge.app.operations.operation import Parameters
from bridge.core.errors import InvalidCommand

START = "start"
"""Cursor of the first part of a list."""
MOST_OF_PART = 1_000
"""Most entries of one part."""
PART = 100
"""Entries of one part unless `limit` is given."""

_LONGEST = 8_192
_END = 2**62
"""Bound of numbers in a cursor: engines and brokers store 64 bits."""
_CHECK = 6
"""Bytes of the digest in a cursor. It detects damage and cursors of other lists; it is no secret."""

EntryPlace = tuple[str | int | float, ...]
"""Place of an entry in the order of its list: distinct for each entry, and the same while the entry exists."""

T = TypeVar("T")

Cursor = Annotated[
    str | None,
    Field(
        description="Read the list in parts of at most 1,000 entries: `start` for the first part, then `next` of the "
        "part before. The answer is an object with `next`, which is null in the last part."
    ),
]
"""Parameter of a list that can be read in parts; None for the list without parts."""


class InParts(Parameters):
    """Parameters of a list that can be read in parts.

    limit: most entries. None: 100 in a part, else all.
    """

    cursor: Cursor = None
    limit: int | None = Field(None, ge=1, le=10_000)


def part_size(limit: int | None) -> int:
    """Most entries of a part, checked. limit: None is 100. Raises: InvalidCommand."""
    if limit is None:
        return PART
    if not 1 <= limit <= MOST_OF_PART:
        raise InvalidCommand(f"with `cursor`, use a `limit` from 1 to {MOST_OF_PART:,}")
    return limit


def cursor_at(name: str, place: EntryPlace) -> str:
    """Cursor of the part after a place. name: of the list."""
    text = json.dumps(place, separators=(",", ":")).encode()
    return urlsafe_b64encode(_digest(name, text) + text).rstrip(b"=").decode()


def place_of(name: str, cursor: str, *forms: tuple[type, ...]) -> EntryPlace | None:
    """Place of a cursor; None for the first part.

    name: of the list. forms: types of the members of its places.
    Raises: InvalidCommand for a damaged cursor and for that of another list.
    """
    if cursor == START:
        return None
    try:
        if len(cursor) > _LONGEST:
            raise ValueError
        read = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        digest, text = read[:_CHECK], read[_CHECK:]
        place = tuple(json.loads(text)) if digest == _digest(name, text) else ()
        known = tuple(map(type, place)) in forms and all(each < _END for each in place if isinstance(each, int))
        if not known or cursor_at(name, place) != cursor:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise InvalidCommand("`cursor` is not one that this list gave; begin again with `cursor=start`") from None
    return place


def _digest(name: str, text: bytes) -> bytes:
    return blake2b(text, digest_size=_CHECK, person=name.encode()[:16]).digest()


@dataclass(frozen=True, slots=True)
class Order(Generic[T]):
    """Order of a list.

    name: of the list. place: place of an entry. form: types of its members. newest_first: later places come first.
    """

    name: str
    place: Callable[[T], EntryPlace]
    form: tuple[type, ...]
    newest_first: bool = False

    def part(self, entries: Iterable[T], cursor: str, limit: int | None) -> tuple[Sequence[T], str | None]:
        """Part of the entries, in order, and the next cursor. entries: in any order. Raises: InvalidCommand."""
        after, size = place_of(self.name, cursor, self.form), part_size(limit)
        first = heapq.nlargest if self.newest_first else heapq.nsmallest
        found = first(size + 1, (each for each in entries if self._is_after(each, after)), key=self.place)
        return self._shown(found, size)

    def after(self, cursor: str) -> EntryPlace | None:
        """Place of a cursor. Raises: InvalidCommand."""
        return place_of(self.name, cursor, self.form)

    def cursor(self, entry: T) -> str:
        """Cursor of the part after an entry."""
        return cursor_at(self.name, self.place(entry))

    async def first(self, entries: AsyncIterator[T], limit: int | None) -> tuple[Sequence[T], str | None]:
        """First entries, and the next cursor. Raises: InvalidCommand.

        entries: in order, after the place of a cursor; read only as far as needed.
        """
        size, found = part_size(limit), list[T]()
        async with aclosing(cast(Any, entries)) as rest:
            async for each in rest:
                found.append(each)
                if len(found) > size:
                    break
        return self._shown(found, size)

    def _shown(self, found: Sequence[T], size: int) -> tuple[Sequence[T], str | None]:
        more = self.cursor(found[size - 1]) if len(found) > size else None
        return found[:size], more

    def _is_after(self, entry: T, place: EntryPlace | None) -> bool:
        if place is None:
            return True
        return self.place(entry) < place if self.newest_first else self.place(entry) > place
