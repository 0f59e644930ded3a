"""Configuration of the documentation site (`make docs`). The navigation is the tables of docs/index.md."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

project = "durable-bridge"
author = "The durable-bridge authors"
root_doc = "docs/index"
_LISTS = (root_doc, "docs/decisions/README")
# Only pages: everything else of the checkout stays outside
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = sorted(each.name for each in ROOT.iterdir() if each.is_dir() and each.name != "docs")
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_heading_anchors = 6
myst_fence_as_directive = ["mermaid"]
mermaid_version = "11.16.0"
suppress_warnings = ["misc.highlighting_failure"]  # examples of wrong YAML
html_theme = "furo"
html_title = "durable-bridge"
html_copy_source = False
html_show_copyright = False
html_extra_path = ["root"]  # index.html, which leads to the first page


def navigation(text: str, directory: str = "docs") -> str:
    """Hidden tables of contents: one for each section, with the pages that the rows of its tables begin with."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        links = re.findall(r"^\| \[[^]]+\]\(([^)#]+\.md)\)", body, flags=re.MULTILINE)
        if links:
            pages = "\n".join(f"/{posixpath.normpath(f'{directory}/{link}')}" for link in links)
            found.append(f"```{{toctree}}\n:hidden:\n:caption: {title.lstrip('# ')}\n:maxdepth: 1\n\n{pages}\n```\n")
    return "\n".join(found)


def _add_navigation(_: Any, name: str, source: list[str]) -> None:
    if name in _LISTS:
        source[0] = f"{source[0]}\n{navigation(source[0], posixpath.dirname(name))}"


def setup(app: Any) -> None:
    app.connect("source-read", _add_navigation)
