"""The documents, cut into their fenced blocks.

Conventions for whoever writes documentation:

- ```console: lines that begin with `$ ` are run one after the other in the document's scratch directory (a line that
  ends in a backslash goes on in the next); the lines below are the output, in which `...` stands for anything and a
  line of only `...` for any lines. No lines below: the output does not matter. A command must end with exit code 0.
  `bridge serve &` and `bridge worker &` are started and waited for until they are ready, `kill %1` stops the first one
  in the orderly way, and 127.0.0.1:8099 stands for its address.
- ```sh is not run, but its `bridge` commands and options must exist, and its `make` targets too.
- A comment before a block, `<!-- file: NAME -->` or `<!-- append: NAME -->`, writes the block to a file.
- ```yaml is a configuration, or some sections of one; `<!-- in: SECTION -->` puts it below that section,
  `<!-- overlay: NAME -->` writes it and lays it over bridge.yaml, `<!-- kubernetes -->` is none.
- ```mermaid is a diagram, which is not checked.
- ```python must compile; `<!-- from: PATH -->`: every part between lines of `...` stands so in that file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)

_FENCE = re.compile(r"^```(\w*)\s*$")
_MARK = re.compile(r"^<!-- (?:(\w+): (\S+)|(\w+)) -->$")
_CODE = re.compile(r"^`([^`]+)`$")
_HEADING = re.compile(r"^#+ (.+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. mark, name: the two words of the comment before it, empty without one. line: of the fence."""

    language: str
    text: str
    line: int
    mark: str = ""
    name: str = ""


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str | None = None) -> list[Block]:
    """The blocks of a document in order, or those of one language."""
    found: list[Block] = []
    opened: tuple[str, int, str, str] | None = None
    inside: list[str] = []
    mark, name = "", ""
    for number, line in enumerate(read(document).splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence is not None and not fence[1]:
                found.append(Block(opened[0], "".join(f"{each}\n" for each in inside), opened[1], *opened[2:]))
                opened, inside, mark, name = None, [], "", ""
            else:
                inside.append(line)
        elif fence is not None:
            opened = (fence[1], number, mark, name)
        elif (comment := _MARK.match(line)) is not None:
            mark, name = comment[1] or comment[3], comment[2] or ""
        elif line.strip():
            mark, name = "", ""
    assert opened is None, f"{document}: the block of line {opened[1] if opened else 0} is not closed"
    return [block for block in found if language in (None, block.language)]


def prose(document: str) -> str:
    """The text of a document outside of its blocks."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def anchors(document: str) -> set[str]:
    """What links to headings of a document may say after the #."""
    titles = [found[1] for line in prose(document).splitlines() if (found := _HEADING.match(line))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def table(document: str, header: str) -> list[list[str]]:
    """Rows of the table whose first column is called `header`; cells that are code come without backticks."""
    rows: list[list[str]] = []
    inside = False
    for line in prose(document).splitlines():
        cells = [_CODE.sub(r"\1", cell.strip()) for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == header:
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not line.startswith("|---"):
            rows.append(cells)
    assert rows, f"{document} has no table of {header}"
    return rows
