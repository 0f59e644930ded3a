"""Fenced blocks of the documents.

Conventions for writers of documentation:

- ```console: lines that begin with `$ ` run in order in the document's scratch directory. A line that ends in a
  backslash continues in the next line. The lines below a command are its expected output: `...` stands for any text, a
  line of only `...` for any lines. Without such lines any output matches. A command must end with exit code 0.
  `bridge serve &`, `bridge worker &` and `bridge engine &` start daemons and wait until they are ready. After the last
  one, `ENDPOINT` has the address of the engine. `kill %1` stops the first daemon with SIGTERM. 127.0.0.1:8099 stands
  for the address of the first running daemon.
- ```sh does not run, but its `bridge` commands, their options and its `make` targets must exist.
- A comment before a block, `<!-- file: NAME -->` or `<!-- append: NAME -->`, writes the block to a file. A reader does
  not see the comment: the paragraph before the block names the file, mostly as "`NAME`:".
- ```yaml is a configuration, or some sections of one. `<!-- in: SECTION -->` puts the block below that section.
  `<!-- wrong: CODE -->` and `<!-- right: CODE -->` mark a configuration with and without a message of `bridge check`.
  `<!-- overlay: NAME -->` writes the block as an overlay of bridge.yaml. `<!-- kubernetes -->` marks other YAML,
  `<!-- values -->` values of the Helm chart.
- ```dockerfile passes the linter of the images (`make deploy-check`).
- ```mermaid is a diagram. It contains no semicolon, because Mermaid ends a statement there.
- ```python must compile. `<!-- from: PATH -->`: every part between lines of `...` must occur in that file; also for
  ```yaml, and always for ```java, ```go and ```javascript.
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
    *sorted(
        str(path.relative_to(ROOT))
        for each in ("", "tutorials", "how-to")
        for path in (ROOT / "docs" / each).glob("*.md")
    ),
)

_FENCE = re.compile(r"^```(\w*)\s*$")
_MARK = re.compile(r"^<!-- (?:(\w+): (\S+)|(\w+)) -->$")
_CODE = re.compile(r"^`([^`]+)`$")
_HEADING = re.compile(r"^#+ (.+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """Fenced block of a document.

    mark, name: the two words of the comment before the block, or empty. line: of the fence.
    """

    language: str
    text: str
    line: int
    mark: str = ""
    name: str = ""


def read(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str | None = None) -> list[Block]:
    """Return the blocks of a document in order, or those of one language."""
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


def unnamed_files(document: str) -> list[str]:
    """Return `line: file` of the blocks whose file the visible paragraph before them does not name."""
    found: list[str] = []
    paragraph, ended = "", True
    inside = False
    for number, line in enumerate(read(document).splitlines(), 1):
        comment = _MARK.match(line)
        if line.startswith("```"):
            inside, paragraph = not inside, ""
        elif inside:
            continue
        elif comment is not None:
            name = (comment[2] or "").rpartition("/")[2]
            if comment[1] in ("file", "append") and name not in paragraph:
                found.append(f"{number}: {comment[2]}")
        elif not line.strip():
            ended = True
        else:
            paragraph = line if ended else f"{paragraph} {line}"
            ended = False
    return found


def prose(document: str) -> str:
    """Return the text of a document without its blocks."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def anchors(document: str) -> set[str]:
    """Return the anchors of the headings of a document, as links write them after the #."""
    titles = [found[1] for line in prose(document).splitlines() if (found := _HEADING.match(line))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def table(document: str, header: str) -> list[list[str]]:
    """Return the rows of the table whose first column is `header`; code cells come without backticks."""
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
