"""Types of a payload by its schema, and expressions that do not fit them. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from cel_expr_python import cel

from bridge.routing.cel.expression import ITEM, typed_error
from bridge.routing.cel.failure import compile_text
from bridge.routing.cel.tokens import Token, tokens

TEXT, INTEGER, NUMBER, BOOLEAN, NULL, LIST, OBJECT = "text", "integer", "number", "boolean", "null", "list", "object"

_WORDS = {
    TEXT: "text", INTEGER: "an integer", NUMBER: "a number", BOOLEAN: "true or false", NULL: "null", LIST: "a list",
    OBJECT: "an object",
}  # fmt: skip
_MOST_PLACES = 64
"""Most places of one expression that are examined."""


class SchemaView(Protocol):
    """Part of a schema.

    kinds: types that a value may have; empty if it may have any.
    names: declared members of an object.
    closed: an object has no other members.
    """

    @property
    def kinds(self) -> frozenset[str]: ...
    @property
    def names(self) -> Collection[str]: ...
    @property
    def closed(self) -> bool: ...
    @property
    def item(self) -> SchemaView | None:
        """Items of a list; None if they are unknown."""
        ...

    def member(self, name: str) -> SchemaView | None:
        """Declared member; None if it is not declared, or may have any name."""
        ...

    def requires(self, name: str) -> bool:
        """True if every value has the member."""
        ...


@dataclass(frozen=True, slots=True)
class Misfit:
    """Part of an expression that does not fit a schema.

    offset: place in the expression.
    missing: the schema lacks the member; otherwise the type does not fit.
    """

    offset: int
    path: tuple[str, ...]
    text: str
    missing: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """A plain read of payload, like `payload.a.b`.

    start, end: offsets in the expression. guarded: the expression tests or tolerates that the member is missing.
    """

    path: tuple[str, ...]
    start: int
    end: int
    guarded: bool


def words(kinds: Collection[str]) -> str:
    """Types in words."""
    return " or ".join(text for kind, text in _WORDS.items() if kind in kinds) or "of any type"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Result of `look_up`.

    view: part of the schema at the path; None if the schema says nothing about it.
    lacking: number of the first member that the schema does not have; None if it has all.
    is_certain: no value has that member.
    optional: a value may lack one of the members.
    similar: declared member with a similar name.
    """

    view: SchemaView | None
    lacking: int | None = None
    is_certain: bool = False
    optional: bool = False
    similar: str | None = None


def look_up(schema: SchemaView, path: Sequence[str]) -> Lookup:
    """Part of a schema at a path of members."""
    view, optional = schema, False
    for number, name in enumerate(path):
        if view.kinds and OBJECT not in view.kinds:
            return Lookup(view, number, is_certain=True)
        found = view.member(name)
        if found is None:
            if not view.names and not view.closed:
                return Lookup(None)
            near = difflib.get_close_matches(name, view.names, n=1, cutoff=0.75)
            return Lookup(None, number, is_certain=view.closed, similar=near[0] if near else None)
        optional = optional or not view.requires(name) or bool(view.kinds - {OBJECT})
        view = found
    return Lookup(view, optional=optional)


def misfits(source: str, schema: SchemaView) -> Iterator[Misfit]:
    """Parts of an expression that do not fit the schema of the payload."""
    found = places(source)
    typed: list[tuple[_Place, SchemaView]] = []
    for place in found:
        known = look_up(schema, place.path)
        if known.lacking is not None:
            if place.guarded or not (known.is_certain or known.similar):
                continue
            yield Misfit(place.start, place.path[: known.lacking + 1], _lacks(place.path, known), missing=True)
        elif known.view is not None and known.view.kinds and not _tests_type(source, place):
            typed.append((place, known.view))
    if any(_fits(source, typed, sign) for sign in (1, -1)):
        return
    for place, view in typed:
        if (error := _error(source, [(place, view)])) is not None:
            path = ".".join(("payload", *place.path))
            text, at = compile_text(error, source)
            clause = text.partition("\n")[0]
            yield Misfit(
                place.start if at is None else at, place.path, f"{path} is {words(view.kinds)}: {clause}", missing=False
            )
            return
    for one, other in pairwise(typed):
        if (error := _error(source, [one, other])) is not None:
            text, at = compile_text(error, source)
            names = " and ".join(
                f"{'.'.join(('payload', *place.path))} is {words(view.kinds)}" for place, view in (one, other)
            )
            clause = text.partition("\n")[0]
            yield Misfit(one[0].start if at is None else at, other[0].path, f"{names}: {clause}", missing=False)
            return


def _tests_type(source: str, place: _Place) -> bool:
    """True if the expression examines the type of the member itself."""
    return re.search(rf"\btype\(\s*{re.escape(source[place.start : place.end])}\s*\)", source) is not None


def value_misfit(value: Any, view: SchemaView) -> bool:
    """True if a constant of `match` has another type than the schema allows."""
    kind = {str: TEXT, bool: BOOLEAN, int: INTEGER, float: NUMBER}.get(type(value))
    numbers = {INTEGER, NUMBER}
    if not view.kinds or kind is None:
        return False
    return kind not in view.kinds and not (kind in numbers and numbers & view.kinds)


def places(source: str) -> list[_Place]:
    """Plain reads of payload in an expression."""
    found = tokens(source)
    if any(_is_binding(found, at) for at, token in enumerate(found) if token.text == "payload"):
        return []
    result: list[_Place] = []
    for at, token in enumerate(found):
        if token.kind != "name" or token.text != "payload" or (at and found[at - 1].text == "."):
            continue
        path: list[str] = []
        position = at + 1
        while position + 1 < len(found) and found[position].text == "." and found[position + 1].kind == "name":
            if position + 2 < len(found) and found[position + 2].text == "(":
                break
            path.append(found[position + 1].text)
            position += 2
        after = found[position].text if position < len(found) else ""
        optional = after in (".", "[") and position + 1 < len(found) and found[position + 1].text == "?"
        if path and not optional:
            result.append(_Place(tuple(path), token.start, found[position - 1].end, guarded=False))
    tested = {place.path for place in result if re.search(r"has\(\s*$", source[: place.start])}
    return [
        _Place(
            place.path, place.start, place.end,
            guarded=any(place.path[: len(path)] == path for path in tested),
        )
        for place in result[:_MOST_PLACES]
    ]  # fmt: skip


def _is_binding(found: Sequence[Token], at: int) -> bool:
    """True if a macro may bind the name at a token."""
    return 0 < at < len(found) - 1 and found[at - 1].text in "(," and found[at + 1].text == ","


def _lacks(path: Sequence[str], known: Lookup) -> str:
    assert known.lacking is not None
    above = ".".join(("payload", *path[: known.lacking]))
    if known.view is not None:
        return f"{above} is {words(known.view.kinds)} and has no members"
    meant = f"; did you mean `{known.similar}`?" if known.similar else ""
    return f"{above} has no {path[known.lacking]}{meant}"


_TYPES = {
    TEXT: (cel.Type.STRING,),
    # A number may be an integer or a decimal number, whatever the schema says: 5.0 is an integer in JSON Schema
    INTEGER: (cel.Type.INT, cel.Type.DOUBLE),
    NUMBER: (cel.Type.DOUBLE, cel.Type.INT),
    BOOLEAN: (cel.Type.BOOL,),
    NULL: (cel.Type.NULL,),
    LIST: (cel.Type.List(cel.Type.DYN),),
    OBJECT: (cel.Type.Map(cel.Type.STRING, cel.Type.DYN),),
}


def _fits(source: str, typed: Sequence[tuple[_Place, SchemaView]], sign: int) -> bool:
    """True if the expression compiles with one type for each member: the first allowed one, or the last.

    This decides most expressions at once.
    """
    types = {_variable(source, place): _alternatives(view)[::sign][0] for place, view in typed}
    return not typed or typed_error(_rewritten(source, [place for place, _ in typed]), ITEM, types) is None


def _variable(source: str, place: _Place) -> str:
    """Name of the variable that stands for a member, of the same length, so that the columns of errors stay."""
    return re.sub(r"\W", "_", source[place.start : place.end])


def _rewritten(source: str, replaced: Sequence[_Place]) -> str:
    """Expression with variables in place of members."""
    for place in replaced:
        source = source[: place.start] + _variable(source, place) + source[place.end :]
    return source


def _error(source: str, typed: Sequence[tuple[_Place, SchemaView]]) -> str | None:
    """Error of the type checker if no type that the schema allows fits; None if one does."""
    names = [_variable(source, place) for place, _ in typed]
    rewritten = _rewritten(source, [place for place, _ in typed])
    if typed_error(rewritten, ITEM, dict.fromkeys(names, cel.Type.DYN)) is not None:
        return None  # the place must be a member, as in has()
    first: str | None = None
    for types in _combinations([_alternatives(view) for _, view in typed]):
        error = typed_error(rewritten, ITEM, dict(zip(names, types, strict=True)))
        if error is None or "null_type" in error:
            return None
        first = first or error
    return first


def _alternatives(view: SchemaView) -> list[Any]:
    found: list[Any] = []
    # Comparisons with null are always possible, and say nothing about the other types
    for kind in sorted(view.kinds - {NULL} or view.kinds):
        if kind == LIST and view.item is not None and len(view.item.kinds) == 1:
            (inner,) = view.item.kinds
            found += [cel.Type.List(each) for each in _TYPES[inner]]
        else:
            found += _TYPES[kind]
    return found


def _combinations(alternatives: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    if len(alternatives) == 1:
        yield from ((each,) for each in alternatives[0])
    else:
        yield from ((one, other) for one in alternatives[0] for other in alternatives[1])
