"""A new project that runs at once, from the templates beside this file."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from bridge.config.json_schema import schema
from bridge.system.package import own_requirement

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".tmpl"
"""Keeps tools that look for Python files and Git's ignore files away from the templates."""


def check_name(name: str) -> str:
    """The same name. Raises: ValueError when no project can be called so."""
    if _NAME.fullmatch(name) is None:
        raise ValueError("the name of a project begins with a letter and has up to 64 letters, digits, _ and -")
    return name


def create(name: str, parent: Path) -> list[Path]:
    """Make the directory `name` below `parent` and write a project into it; the files, in the order of their paths.

    Raises: ValueError for the name; FileExistsError when there is something already; OSError.
    """
    project = parent / check_name(name)
    project.mkdir(exist_ok=True)
    if any(project.iterdir()):
        raise FileExistsError(errno.ENOTEMPTY, "is not empty; choose another name, or remove its files", str(project))
    contents = dict(_templates(name)) | {
        PurePosixPath("bridge.schema.json"): json.dumps(schema(), indent=2) + "\n",
    }
    for path, text in contents.items():
        file = project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return sorted(project / path for path in contents)


def _templates(name: str) -> Iterator[tuple[PurePosixPath, str]]:
    bridge = own_requirement()
    for path, template in _walk(files(__name__) / "templates", PurePosixPath()):
        file = path.with_name(path.name.removesuffix(_SUFFIX))
        if file.name == "gitignore":
            file = file.with_name(".gitignore")
        yield file, template.read_text(encoding="utf-8").replace("@@NAME@@", name).replace("@@BRIDGE@@", bridge)


def _walk(directory: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield path / entry.name, entry
