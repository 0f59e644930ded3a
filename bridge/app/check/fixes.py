"""Mechanical fixes of what `bridge check` reports."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.config.booleans import FALSE, TRUE
from bridge.config.source import Loaded
from bridge.config.translation import RENAMED_KEYS
from bridge.config.yaml.document import MAX_BYTES
from bridge.config.yaml.edits import rewrite
from bridge.config.yaml.node import MappingNode, Node, ScalarNode, SequenceNode
from bridge.core.errors import Problem
from bridge.core.problems.codes import SUPPRESSION
from bridge.core.problems.suppression import UNUSED
from bridge.routing.cel.respelling import inner_expression, respelled
from bridge.routing.rule_checks import with_double_braces
from bridge.system.files import read_file

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class FixedFile:
    """A configuration file with its old and its new text."""

    path: Path
    old: str
    new: str

    def diff(self) -> str:
        """Unified diff."""
        old, new = self.old.splitlines(keepends=True), self.new.splitlines(keepends=True)
        return "".join(_ended(difflib.unified_diff(old, new, str(self.path), str(self.path))))


@dataclass
class _Changes:
    """Changes of one file: new values by line and column, and lines whose comment is removed."""

    values: dict[tuple[int, int], str | bool] = field(default_factory=dict)
    comments: set[int] = field(default_factory=set)


def fixes(loaded: Loaded, problems: Sequence[Problem]) -> list[FixedFile]:
    """Files that can be fixed, not written yet. Files that are not plain are left out."""
    nodes, keys = _places(loaded.document.root)
    changes: defaultdict[str, _Changes] = defaultdict(_Changes)
    for problem in problems:
        if problem.code == SUPPRESSION and problem.what == "; ".join(UNUSED):
            changes[problem.file].comments.add(problem.line)
            continue
        place = problem.file, problem.line, problem.column
        value: str | bool | None = None
        if problem.code == "C003":
            value = RENAMED_KEYS.get(keys.get(place, ""))
        elif (node := nodes.get(place)) is not None and not node.variables and problem.code in _FIXES:
            value = _FIXES[problem.code](node)
        if value is not None:
            changes[problem.file].values[place[1:]] = value
    found = []
    for file, change in changes.items():
        fixed = _fixed(Path(file), change)
        if fixed is not None:
            found.append(fixed)
    return found


def write(fixed: FixedFile) -> None:
    """Write the new text of a file in one step, with the permissions of the old one. Raises: OSError."""
    path = fixed.path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(fixed.new.encode())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _fixed(path: Path, change: _Changes) -> FixedFile | None:
    try:
        old = read_file(path, MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return None
    mark = _BOM if old.startswith(_BOM) else ""
    new = mark + rewrite(old.removeprefix(_BOM), change.values, change.comments)
    return FixedFile(path, old, new) if new != old else None


def _places(
    root: Node,
) -> tuple[Mapping[tuple[str, int, int], ScalarNode], Mapping[tuple[str, int, int], str]]:
    """Scalars and keys of a configuration by their place."""
    nodes: dict[tuple[str, int, int], ScalarNode] = {}
    keys: dict[tuple[str, int, int], str] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, MappingNode):
            for key, mark, value in node.items():
                keys[mark.file, mark.line, mark.column] = key
                pending.append(value)
        elif isinstance(node, SequenceNode):
            pending += node.items
        else:
            nodes[node.mark.file, node.mark.line, node.mark.column] = node
    return nodes, keys


def _boolean(node: ScalarNode) -> bool | None:
    word = str(node.value).lower()
    return True if word in TRUE else False if word in FALSE else None


def _text(node: ScalarNode) -> str | None:
    """Text of a number or boolean, as it is compared with attributes."""
    if isinstance(node.value, bool):
        return str(node.value).lower()
    return str(node.value) if isinstance(node.value, int) else None


def _of_text(fix: Callable[[str], str | None]) -> Callable[[ScalarNode], str | None]:
    return lambda node: fix(node.value) if isinstance(node.value, str) else None


_FIXES: Mapping[str, Callable[[ScalarNode], str | bool | None]] = {
    "C015": _boolean,
    "R001": _of_text(respelled),
    "R003": _of_text(inner_expression),
    "R004": _of_text(with_double_braces),
    "R011": _text,
}
"""New value of a scalar by the code of its problem; None where it has no mechanical fix."""

_NO_END = re.compile(r"[^\n]\Z")


def _ended(lines: Iterator[str]) -> Iterator[str]:
    """Lines of a diff, each with an end."""
    for line in lines:
        yield f"{line}\n\\ No newline at end of file\n" if _NO_END.search(line) else line
