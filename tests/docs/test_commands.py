"""Every command in the documents runs and produces the documented output."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bridge.app.scaffold import create
from tests.docs.document import DOCUMENTS, ROOT, blocks
from tests.docs.shell import Shell, matches


def _directory(document: str, directory: Path) -> Path:
    """Return the directory in which a reader runs the commands: an empty one, the repository, or a new project."""
    if document in ("README.md", "docs/routing.md"):
        return directory
    if document == "docs/sagas.md":
        for name in ("config", "workflows"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".bridge"))
        return directory
    create("shop", directory)
    return directory / "shop"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "console")])
def test_commands(document: str, tmp_path: Path) -> None:
    with Shell(_directory(document, tmp_path)) as shell:
        for block in blocks(document):
            shell.run(block)


def test_what_counts_as_the_documented_output() -> None:
    assert matches("ok: ... routes\n...\nlast", "ok: 3 routes\none\ntwo\nlast\n")
    assert matches("...\nlast", "last\n")
    assert not matches("ok: ... routes", "ok: 3\nroutes")
    assert not matches("first", "first\nsecond")
    assert not matches("first\nsecond", "first")
