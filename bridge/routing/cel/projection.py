"""Parts of a message that an expression reads. Only these parts are converted for CEL.

Conversion costs more than evaluation: 1 KB of payload takes several times as long as a condition on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cel_expr_python import cel

from bridge.core.errors import ExpressionError
from bridge.routing.cel.tokens import VariableRead
from bridge.routing.cel.value import PLAIN

DEPTH_LIMIT = 1000
"""Maximum depth of nesting passed to CEL, which crashes at some thousand levels."""

Tree = Mapping[str, "Tree | None"]
"""Keys of a map that are read, each with the tree read below it; None stands for everything."""


class Projection:
    """Parts of the variables that one or more expressions read. Compared by identity: see `Projections`."""

    __slots__ = ("env", "item", "parts")

    def __init__(self, env: cel.Env, parts: tuple[tuple[str, Tree | None], ...]) -> None:
        self.env = env
        self.parts = parts
        self.item = any(name in ("item", "index") for name, _ in parts)


class Projections:
    """Projections with one identity for equal ones.

    The rules of a router thus share the converted parts of a message.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Projection] = {}

    def of(self, env: cel.Env, readings: Iterable[VariableRead]) -> Projection:
        """Projection that covers all given readings in an environment."""
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
    """Part of `value` that `tree` names.

    A value that is not a map where the tree expects one is left unchanged. A selection from it fails in CEL as it
    would have.
    """
    if tree is None:
        return dict(value) if isinstance(value, Mapping) and value.__class__ is not dict else value
    if value.__class__ is not dict and not isinstance(value, Mapping):
        return [] if isinstance(value, list) else value
    result = {}
    for key, below in tree.items():
        if key in value:
            member = value[key]
            result[key] = member if member.__class__ in PLAIN else project(member, below)
    return result


_NUL = "text holds a NUL character, after which CEL would cut it off"
_NUL_BYTE = "the bytes hold a NUL, which CEL would cut off; read base64.decode(event.data_base64)"


def weigh(variables: dict[str, Any]) -> tuple[int, int]:
    """Number of values in projected variables, including keys of maps, and bytes of their text.

    Raises: ExpressionError for values that the CEL library mishandles: it ends text and bytes at a NUL, and deep
    nesting overflows its stack.
    """
    values = size = 0
    depth = -1  # depth of the variables themselves
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
