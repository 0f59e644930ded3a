"""Check of JSON Schema files that sources and routes name: each must exist and hold JSON. Codecs compile them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from bridge.core.errors import Locate, Problem
from bridge.system.files import FileProblem, read_file

MAX_SCHEMA = 4 * 1024 * 1024
"""Maximum size of a schema file, in bytes."""


def check(
    document: dict[str, Any], locate: Locate, resolve: Callable[[tuple[str | int, ...], str], Path]
) -> Iterator[Problem]:
    """Problems of the files named by `schema:`. Each file is read once."""
    seen: dict[Path, str | None] = {}
    for path, value in _named(document):
        file = resolve(path, value)
        if file not in seen:
            seen[file] = _wrong(file)
        wrong = seen[file]
        if wrong is not None:
            yield locate(path, f"the schema {file} {wrong}")


def _named(document: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    sources, routes = document.get("sources"), document.get("routes")
    entries: list[tuple[str, str | int, Any]] = []
    if isinstance(sources, dict):
        entries += [("sources", name, entry) for name, entry in sources.items()]
    if isinstance(routes, list):
        entries += [("routes", index, entry) for index, entry in enumerate(routes)]
    for section, key, entry in entries:
        if isinstance(entry, dict) and isinstance(value := entry.get("schema"), str):
            yield (section, key, "schema"), value


def _wrong(file: Path) -> str | None:
    try:
        raw = read_file(file, MAX_SCHEMA)
    except FileNotFoundError:
        return "does not exist"
    except FileProblem as problem:
        return f"is {problem.strerror}"
    except IsADirectoryError:
        return "is not a file"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"is not JSON: {error.msg} in line {error.lineno}"
    return None
