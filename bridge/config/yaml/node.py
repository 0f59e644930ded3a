"""Configuration document as a tree whose parts know their place in the files. Parts may be shared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.core.errors import ConfigPath, Problem

ALIASES = {"from_": "from", "continue_": "continue", "schema_file": "schema"}
"""Keys in files by attribute name of the models, where the two differ."""

MASK = "**********"
"""Text shown in place of a secret."""


_USER_INFORMATION = re.compile(r"//[^\s/@'\"{}]+@")
_PASSWORD = re.compile(r"[^\s/:@'\"`{}]+:[^\s/:@'\"`{}]+@")


def without_credentials(text: str) -> str:
    """Mask user and password in every address of a text: `http://user:password@host`."""
    return _USER_INFORMATION.sub(f"//{MASK}@", text) if "@" in text else text


@dataclass(frozen=True, slots=True)
class FilePosition:
    """Position in a file. `line` and `column` start at 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def problem(self, path: ConfigPath, what: str, code: str = "C005") -> Problem:
        """An error at this place. Credentials in an address that `what` quotes are masked."""
        if "@" in what:
            what = _PASSWORD.sub(f"{MASK}@", without_credentials(what))
        return Problem(self.file, self.line, self.column, dotted(path), what, code=code)


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text, number, boolean or null.

    variables: names of the environment variables and secret files that were interpolated.
    secret: the value must never be shown.
    plain: written without quotes.
    """

    value: str | int | float | bool | None
    mark: FilePosition
    variables: tuple[str, ...] = ()
    secret: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    items: tuple[Node, ...]
    mark: FilePosition


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping. keys: the place of each key."""

    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, FilePosition] = field(default_factory=dict)
    mark: FilePosition = FilePosition("", 0, 0)

    def __getitem__(self, key: str) -> Node:
        return self.entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def items(self) -> Iterator[tuple[str, FilePosition, Node]]:
        """Triples of key, place of the key, and value."""
        for key, value in self.entries.items():
            yield key, self.keys[key], value

    def without(self, *keys: str) -> MappingNode:
        """Copy of the mapping without the given keys."""
        entries = {key: value for key, value in self.entries.items() if key not in keys}
        return MappingNode(entries, {key: self.keys[key] for key in entries}, self.mark)

    def with_entry(self, key: str, mark: FilePosition, value: Node) -> MappingNode:
        """Copy of the mapping with one entry added or replaced."""
        return MappingNode(self.entries | {key: value}, self.keys | {key: mark}, self.mark)


Node = ScalarNode | SequenceNode | MappingNode


def dotted(path: Sequence[str | int]) -> str:
    """Path as text: `routes[2].when` for `("routes", 2, "when")`. A key that contains dots is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = f'"{part}"' if "." in part or not part else part
            text += f".{word}" if text else word
    return text


def plain(node: Node) -> Any:
    """Convert a tree to plain dicts, lists and scalars."""
    if isinstance(node, MappingNode):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return node.value


def child(node: Node, part: str | int) -> Node | None:
    """Part of a container, or None if absent. An attribute name of a model finds the key that it stands for."""
    if isinstance(node, MappingNode):
        key = str(part)
        return node.entries.get(key, node.entries.get(ALIASES.get(key, key)))
    if isinstance(node, SequenceNode) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None


def find(root: Node, path: ConfigPath) -> Node | None:
    """Node at a path, or None if nothing is written there."""
    node: Node | None = root
    for part in path:
        if node is None:
            return None
        node = child(node, part)
    return node


def place(root: Node, path: ConfigPath) -> FilePosition:
    """Place of a path: that of the scalar itself, or that of a container's key.

    Else the place of the nearest parent that is written.
    """
    node, mark = root, root.mark
    for part in path:
        found = child(node, part)
        if found is None:
            break
        mark = found.mark
        if isinstance(node, MappingNode) and (not isinstance(found, ScalarNode) or found.value is None):
            mark = key_mark(node, str(part))
        node = found
    return mark


def key_mark(node: MappingNode, key: str) -> FilePosition:
    """Place of a mapping's key."""
    return node.keys.get(key) or node.keys.get(ALIASES.get(key, key), node.mark)


def kind(node: Node) -> str:
    """Name of a value's type for error messages: `a mapping`, `a list`, `text`."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    match node.value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case _:
            return "text"
