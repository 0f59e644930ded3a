"""Parser of YAML files into trees with positions.

Size, depth and expansion are limited; tags and objects are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bridge.config.yaml.node import FilePosition, MappingNode, Node, ScalarNode, SequenceNode
from bridge.config.yaml.scalars import LOADER, FileSuppression, suppressions_in
from bridge.core.errors import Problem
from bridge.core.problems.suppression import MARK
from bridge.system.files import FileTooLarge, read_file

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Value of an unquoted scalar, according to the core schema of YAML 1.2 without its traps.

    `yes`, `no`, `on`, `off`, dates, times, `0x1f`, `0o17`, `007` and `1_000` are text. `.nan`, `.inf` and numbers
    beyond 64 bits are refused, because no JSON payload and no expression could equal them.
    Raises: ValueError for a refused number.
    """
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "0123456789.+-":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            raise ValueError("the number does not fit 64 bits; put it in quotes if it is meant as text")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large; put it in quotes if it is meant as text")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that can be used here; put it in quotes if it is meant as text")
    return text


MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of a configuration file, in bytes."""
MAX_DEPTH = 100
"""Maximum depth of nesting, including the contents of anchors."""
MAX_NODES = 2_000_000
"""Maximum number of values in one file. Each use of an anchor counts its values."""

_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
_LIMIT_OF_PARSER = "exceeded maximum nesting depth"
"""Error of libyaml from PyYAML 6.0.4 on, which looks ahead and meets its own, higher limit first."""

_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")
_MERGE = "<<"


class _Broken(Exception):
    """Parsing stops here; the rest of the file cannot be interpreted."""

    def __init__(self, mark: FilePosition, what: str) -> None:
        self.problem = mark.problem((), what, "C002")


_SHAPE = "must be a mapping of keys like `brokers:`, `sources:` and `routes:`"


def read(
    path: Path, problems: list[Problem], suppressions: list[FileSuppression] | None = None, shape: str = _SHAPE
) -> MappingNode | None:
    """Parse a file and return its mapping, or None if it holds none. Problems and suppressions are added to lists.

    shape: text about a file that holds no mapping.
    """
    file = str(path)
    try:
        raw = _raw(path)
    except FileTooLarge:
        what = f"is larger than {MAX_BYTES // 1024**2} MiB; split it into several"
        problems.append(Problem(file, 0, 0, "", what, code="C001"))
        return None
    except OSError as error:
        what = f"cannot be read: {error.strerror or type(error).__name__}"
        problems.append(Problem(file, 0, 0, "", what, code="C001"))
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        problems.append(Problem(file, line, column, "", "is not UTF-8; save the file in that encoding", code="C001"))
        return None
    root = parse(text, file, problems, shape)
    if root is not None and suppressions is not None and MARK in text:
        suppressions += (FileSuppression(file, found) for found in suppressions_in(text))
    return root


def _raw(path: Path) -> bytes:
    """Contents of a file. Only below `/dev` and `/proc`, as of `-c <(...)` in a shell, it may be a pipe: the user has
    named that one, while any other path may lead to a pipe without a writer.

    Raises: OSError.
    """
    if path.parts[:2] not in (("/", "dev"), ("/", "proc")):
        return read_file(path, MAX_BYTES)
    with path.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise FileTooLarge(MAX_BYTES)
    return raw


def parse(text: str, file: str, problems: list[Problem], shape: str = _SHAPE) -> MappingNode | None:
    """Parse a text and return its mapping, or None if it holds none. Problems are added to `problems`."""
    try:
        node = _Builder(file, problems).build(yaml.parse(text, Loader=LOADER))
    except _Broken as broken:
        problems.append(broken.problem)
        return None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        line, column = (at.line + 1, at.column + 1) if at else (1, 1)
        what = error.problem or error.context or "cannot be read"
        what = _TOO_DEEP if what == _LIMIT_OF_PARSER else f"is not YAML: {what}{_remedy(what, text, line, column)}"
        problems.append(Problem(file, line, column, "", what, code="C002"))
        return None
    except yaml.reader.ReaderError as error:
        at_character = error.position if isinstance(error.position, int) else 0
        before = text[:at_character]
        line, column = before.count("\n") + 1, at_character - before.rfind("\n")
        problems.append(Problem(file, line, column, "", "is not YAML: a control character is not allowed", code="C002"))
        return None
    if node is None or (isinstance(node, ScalarNode) and node.value is None):
        what = "is empty; `bridge init NAME` creates a configuration" if shape is _SHAPE else f"is empty; {shape}"
        problems.append(Problem(file, 1, 1, "", what, code="C001"))
        return None
    if not isinstance(node, MappingNode):
        problems.append(node.mark.problem((), shape, "C002"))
        return None
    return node


def _remedy(what: str, text: str, line: int, column: int) -> str:
    lines = text.split("\n")
    if "\t" in (lines[line - 1] if line <= len(lines) else "")[:column]:
        return "; indent with spaces, YAML does not allow tabs"
    if "mapping values are not allowed" in what:
        return "; a quote or an indent may be missing"
    if "undefined alias" in what:
        return "; text that begins with * needs quotes"
    return ""


@dataclass(slots=True)
class _Frame:
    """A container that is being read.

    size: number of its values.
    height: deepest nesting in it.
    """

    node: MappingNode | None
    items: list[Node]
    mark: FilePosition
    anchor: str | None
    size: int = 1
    height: int = 0
    key: str | None = None
    key_mark: FilePosition | None = None
    merging: bool = False
    merged: list[tuple[FilePosition, Node]] = field(default_factory=list)

    @property
    def awaits_key(self) -> bool:
        return self.node is not None and self.key is None

    def begin(self, key: str, mark: FilePosition, *, merging: bool) -> None:
        """Take the key of the next value. merging: the value is merged into the mapping."""
        self.key, self.key_mark, self.merging = key, mark, merging

    def add(self, node: Node, size: int, height: int) -> None:
        """Add a value. size: number of values in it. height: its deepest nesting."""
        self.size += size
        self.height = max(self.height, height)
        if self.node is None:
            self.items.append(node)
            return
        key, mark, self.key = self.key, self.key_mark, None
        assert key is not None
        assert mark is not None
        if self.merging:
            self.merged.append((mark, node))
        elif key not in self.node.entries:
            self.node.entries[key], self.node.keys[key] = node, mark


class _Builder:
    """Builder of a tree from the parser's events, without recursion."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._open: set[str] = set()
        self._stack: list[_Frame] = []
        self._nodes = 0
        self._root: Node | None = None

    def build(self, events: Iterator[yaml.Event]) -> Node | None:
        documents = 0
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise _Broken(self._mark(event), "has a second document; write each document to its own file")
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._start(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._end()
                case _:
                    pass
        return self._root

    def _mark(self, event: yaml.Event) -> FilePosition:
        at = event.start_mark
        assert at is not None
        return FilePosition(self._file, at.line + 1, at.column + 1)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        mark = self._mark(event)
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            raise _Broken(mark, f"the tag {event.tag!r} is not supported; write plain values")
        if self._awaits_key():
            # A quoted `<<` is an ordinary key
            self._key(event.value, mark, merging=event.value == _MERGE and event.style in (None, ""))
            return
        value: str | int | float | bool | None = event.value
        is_plain = event.style in (None, "")
        if event.tag is None and is_plain:
            try:
                value = plain_scalar(event.value)
            except ValueError as error:
                self._problems.append(mark.problem((), str(error)))
        self._count(mark, 1)
        node = ScalarNode(value, mark, plain=is_plain)
        if event.anchor:
            self._anchors[event.anchor] = (node, 1, 0)
        self._add(node, 1, 0)

    def _alias(self, event: yaml.AliasEvent) -> None:
        mark = self._mark(event)
        if event.anchor in self._open:
            raise _Broken(mark, f"*{event.anchor} refers to a value that contains it")
        if event.anchor not in self._anchors:
            raise _Broken(mark, f"*{event.anchor} is not defined; text that begins with * needs quotes")
        node, size, height = self._anchors[event.anchor]
        if self._awaits_key():
            if not isinstance(node, ScalarNode) or node.value is None:
                raise _Broken(mark, "a key must be text")
            self._key(str(node.value), mark, merging=False)
            return
        self._count(mark, size, height)
        self._add(node, size, height)

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        mark = self._mark(event)
        if event.tag is not None:
            raise _Broken(mark, f"the tag {event.tag!r} is not supported; write plain values")
        if self._awaits_key():
            raise _Broken(mark, "a key must be text, not a list or a mapping; text with { or [ needs quotes")
        self._count(mark, 1, 1)
        if event.anchor:
            self._open.add(event.anchor)
        mapping = MappingNode({}, {}, mark) if isinstance(event, yaml.MappingStartEvent) else None
        self._stack.append(_Frame(mapping, [], mark, event.anchor))

    def _end(self) -> None:
        frame = self._stack.pop()
        node: Node = frame.node or SequenceNode(tuple(frame.items), frame.mark)
        if frame.node is not None:
            self._merge(frame.node, frame.merged)
        if frame.anchor:
            self._open.discard(frame.anchor)
            self._anchors[frame.anchor] = (node, frame.size, frame.height + 1)
        self._add(node, frame.size, frame.height + 1)

    def _count(self, mark: FilePosition, size: int, height: int = 0) -> None:
        self._nodes += size
        if len(self._stack) + height > MAX_DEPTH:
            raise _Broken(mark, _TOO_DEEP)
        if self._nodes > MAX_NODES:
            raise _Broken(mark, f"holds more than {MAX_NODES:,} values, anchors counted at every use")

    def _awaits_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].awaits_key

    def _key(self, key: str, mark: FilePosition, *, merging: bool) -> None:
        frame = self._stack[-1]
        frame.begin(key, mark, merging=merging)
        if key == "":
            raise _Broken(mark, "a key must not be empty")
        earlier = frame.node.keys.get(key) if frame.node is not None else None
        if earlier is not None:
            self._problems.append(mark.problem((key,), f"the key occurs twice, first in line {earlier.line}", "C010"))

    def _add(self, node: Node, size: int, height: int) -> None:
        if self._stack:
            self._stack[-1].add(node, size, height)
        else:
            self._root = node

    def _merge(self, node: MappingNode, merged: list[tuple[FilePosition, Node]]) -> None:
        """Merge the values of `<<: *anchor`.

        The mapping's own entries take precedence, then earlier values over later ones.
        """
        for mark, value in merged:
            for part in value.items if isinstance(value, SequenceNode) else (value,):
                if not isinstance(part, MappingNode):
                    self._problems.append(mark.problem((), "`<<` needs a mapping"))
                    continue
                for key, key_mark, entry in part.items():
                    if key not in node:
                        node.entries[key], node.keys[key] = entry, key_mark
