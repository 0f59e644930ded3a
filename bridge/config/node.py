"""A configuration document as a tree whose every part knows where it is written. Parts may be shared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import Problem

Path = tuple[str | int, ...]
"""Where something stands in the configuration, like `("routes", 2, "when")`."""

ALIASES = {"from_": "from", "continue_": "continue", "schema_file": "schema"}
"""Attribute names of the models whose key in a file is another word."""

MASK = "**********"
"""What is shown in place of a secret."""


_USER_INFORMATION = re.compile(r"//[^\s/@'\"{}]+@")
_PASSWORD = re.compile(r"[^\s/:@'\"`{}]+:[^\s/:@'\"`{}]+@")


def without_credentials(text: str) -> str:
    """The text with user and password of every address in it masked: `http://user:password@host`."""
    return _USER_INFORMATION.sub(f"//{MASK}@", text) if "@" in text else text


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def problem(self, path: Path, what: str) -> Problem:
        """An error at this place. What is wrong may quote an address, but not the credentials in it."""
        if "@" in what:
            what = _PASSWORD.sub(f"{MASK}@", without_credentials(what))
        return Problem(self.file, self.line, self.column, dotted(path), what)


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text, number, boolean or null. `variables`: what it was interpolated from. `secret`: it must never be shown."""

    value: str | int | float | bool | None
    mark: Mark
    variables: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping; `keys` tells where each key is written."""

    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Mark] = field(default_factory=dict)
    mark: Mark = Mark("", 0, 0)

    def __getitem__(self, key: str) -> Node:
        return self.entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def items(self) -> Iterator[tuple[str, Mark, Node]]:
        """Key, where the key is written, and value."""
        for key, value in self.entries.items():
            yield key, self.keys[key], value

    def without(self, *keys: str) -> MappingNode:
        """The same mapping less these keys."""
        entries = {key: value for key, value in self.entries.items() if key not in keys}
        return MappingNode(entries, {key: self.keys[key] for key in entries}, self.mark)

    def with_entry(self, key: str, mark: Mark, value: Node) -> MappingNode:
        """The same mapping with one entry added or replaced."""
        return MappingNode(self.entries | {key: value}, self.keys | {key: mark}, self.mark)


Node = ScalarNode | SequenceNode | MappingNode


def dotted(path: Sequence[str | int]) -> str:
    """`routes[2].when` for `("routes", 2, "when")`; a key that holds dots is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = f'"{part}"' if "." in part or not part else part
            text += f".{word}" if text else word
    return text


def plain(node: Node) -> Any:
    """Ordinary dicts, lists and scalars of a tree."""
    if isinstance(node, MappingNode):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return node.value


def child(node: Node, part: str | int) -> Node | None:
    """The part of a container, or None. An attribute name of a model finds the key it stands for."""
    if isinstance(node, MappingNode):
        key = str(part)
        return node.entries.get(key, node.entries.get(ALIASES.get(key, key)))
    if isinstance(node, SequenceNode) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None


def find(root: Node, path: Path) -> Node | None:
    """What is written at a path, or None."""
    node: Node | None = root
    for part in path:
        if node is None:
            return None
        node = child(node, part)
    return node


def place(root: Node, path: Path) -> Mark:
    """Where a path is written: a scalar's own place, a container's key; else the nearest parent that is written."""
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


def key_mark(node: MappingNode, key: str) -> Mark:
    """Where a key of a mapping is written."""
    return node.keys.get(key) or node.keys.get(ALIASES.get(key, key), node.mark)


def kind(node: Node) -> str:
    """What a person calls this kind of value."""
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
