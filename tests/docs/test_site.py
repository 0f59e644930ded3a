"""Navigation of the documentation site, and its generated pages."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

from docs.site import reference
from tests.docs.document import DOCUMENTS, ROOT, prose, read

CONFIGURATION: dict[str, Any] = runpy.run_path(str(ROOT / "docs/site/conf.py"))


def test_every_page_is_in_the_navigation_once() -> None:
    contents = CONFIGURATION["navigation"](read("docs/index.md"))
    pages = re.findall(r"^/(\S+\.md)$", contents, re.MULTILINE)
    assert sorted(pages) == sorted({*DOCUMENTS, "docs/decisions/README.md", "SECURITY.md"} - {"docs/index.md"})


def test_the_navigation_has_the_four_kinds_of_pages() -> None:
    kinds = re.findall(r":caption: (.*)", CONFIGURATION["navigation"](read("docs/index.md")))
    assert kinds == ["Tutorials", "How-to guides", "Reference", "Explanation", "Project"]


def test_a_link_to_a_page_elsewhere_is_not_in_the_navigation() -> None:
    page = "## A\n| [One](one.md) | [two](two.md) |\n| [Part](three.md#part) | |\n## B\nno table, [four](four.md)\n"
    assert re.findall(r"^/(\S+)$", CONFIGURATION["navigation"](page), re.MULTILINE) == ["docs/one.md"]


@pytest.mark.parametrize(
    ("name", "page"),
    [("cli", "docs/cli.md"), ("python", "docs/python-api.md"), ("requests", "docs/requests.md")],
)
def test_generated_pages_are_current(name: str, page: str) -> None:
    command = [sys.executable, "-m", "docs.site.reference", name]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=110).stdout
    assert read(page) == text, f"run: python -m docs.site.reference {name} > {page}"


def test_every_public_name_has_its_section() -> None:
    import bridge.testing
    import bridge.workflow

    sections = re.findall(r"^### (\w+)$", prose("docs/python-api.md"), re.MULTILINE)
    assert sorted(sections) == sorted([*bridge.workflow.__all__, *bridge.testing.__all__])


def test_parameters_in_docstrings_become_lists_and_indented_lines_code() -> None:
    text = "Summary.\n\none, two: first\n    continued.\nRaises: ValueError.\n\nExample:\n\n    code()\n\nEnd."
    found = "\n".join(reference._text(text))
    assert "- `one`, `two`: first" in found
    assert "- Raises: ValueError." in found
    assert "```\ncode()\n" in found
    assert found.endswith("End.")
