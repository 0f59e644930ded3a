"""What of a message an expression reads, so that no more than that is converted for CEL.

Converting costs more than evaluating: 1 KB of payload takes several times as long as a condition on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cel_expr_python import cel

from bridge.errors import ExpressionError
from bridge.routing.cel_tokens import Reading

DEPTH_LIMIT = 1000
"""Deepest nesting that is given to CEL, which some thousands of levels would crash."""

Tree = Mapping[str, "Tree | None"]
"""Keys that are read of a map, each with what is read below it; None stands for everything."""


class Projection:
    """What one expression, or several, read of their variables. Compared by identity: see `Projections`."""

    __slots__ = ("env", "item", "parts")

    def __init__(self, env: cel.Env, parts: tuple[tuple[str, Tree | None], ...]) -> None:
        self.env = env
        self.parts = parts
        self.item = any(name in ("item", "index") for name, _ in parts)


class Projections:
    """Gives equal projections one identity, so that the rules of a router share what was converted for a message."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Projection] = {}

    def of(self, env: cel.Env, readings: Iterable[Reading]) -> Projection:
        """The projection that serves all these readings in this environment."""
        roots: dict[str, Tree | None] = {}
        for reading in readings:
            roots[reading.variable] = _merged(roots.get(reading.variable, {}), reading.path)
        parts = tuple(sorted(roots.items()))
        return self._known.setdefault((id(env), repr(parts)), Projection(env, parts))


def _merged(tree: Tree | None, path: tuple[str, ...]) -> Tree | None:
    if tree is None or not path:
        return None
    return {**tree, path[0]: _merged(tree.get(path[0], {}), path[1:])}


def project(value: Any, tree: Tree | None) -> Any:
    """The part of `value` that `tree` names.

    What is not a map where the tree expects one is left as it is: selecting from it fails in CEL as it would have.
    """
    if tree is None:
        return dict(value) if isinstance(value, Mapping) and value.__class__ is not dict else value
    if value.__class__ is not dict and not isinstance(value, Mapping):
        return [] if isinstance(value, list) else value
    result = {}
    for key, below in tree.items():
        if key in value:
            member = value[key]
            result[key] = member if member.__class__ in _PLAIN else project(member, below)
    return result


_PLAIN = frozenset((str, int, float, bool, type(None)))
_NUL = "a string holds a NUL character, which CEL would cut off"
_NUL_BYTE = "the bytes hold a NUL, which CEL would cut off; read base64.decode(event.data_base64)"


def weigh(variables: dict[str, Any]) -> tuple[int, int]:
    """Values of projected variables, with keys of maps, and bytes of their text.

    Raises: ExpressionError for what the CEL library mistakes: it ends text and bytes at a NUL, and deep nesting
    overflows its stack.
    """
    values = size = 0
    depth = -1  # of the variables themselves
    level: list[Any] = [variables]
    while level:
        depth += 1
        below: list[Any] = []
        for container in level:
            values += len(container)
            if container.__class__ is dict:
                values += len(container)
                for key in container:
                    if key.__class__ is str:
                        size += len(key) if key.isascii() else 4 * len(key)
                        if "\0" in key:
                            raise ExpressionError(_NUL)
                members: Iterable[Any] = container.values()
            else:
                members = container
            for member in members:
                kind = member.__class__
                if kind is str:
                    if "\0" in member:
                        raise ExpressionError(_NUL)
                    size += len(member) if member.isascii() else 4 * len(member)
                elif kind is dict or kind is list:
                    below.append(member)
                elif kind is bytes:
                    if b"\0" in member:
                        raise ExpressionError(_NUL_BYTE)
                    size += len(member)
        if depth > DEPTH_LIMIT:
            raise ExpressionError(f"a value is nested deeper than {DEPTH_LIMIT} levels")
        level = below
    return values, size
