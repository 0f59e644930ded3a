"""Check of JSON Schema files that sources and routes name: each must exist and hold JSON. Codecs compile them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from bridge.config.model.bridge import BridgeConfig
from bridge.core.errors import ConfigPath, Locate, Problem
from bridge.core.problems.codes import coded
from bridge.system.files import FileProblem, read_file

MAX_SCHEMA = 4 * 1024 * 1024
"""Maximum size of a schema file, in bytes."""


def check(config: BridgeConfig, locate: Locate, resolve: Callable[[ConfigPath, str], Path]) -> Iterator[Problem]:
    """Problems of the files named by `schema:`. Each file is read once."""
    seen: dict[Path, str | None] = {}
    for path, value in _named(config):
        file = resolve(path, value)
        if file not in seen:
            seen[file] = _wrong(file)
        wrong = seen[file]
        if wrong is not None:
            yield coded("C012", locate(path, f"the schema {file} {wrong}"))


def _named(config: BridgeConfig) -> Iterator[tuple[ConfigPath, str]]:
    for name, source in config.sources.items():
        if source.schema_file is not None:
            yield ("sources", name, "schema"), source.schema_file
    for position, route in enumerate(config.routes):
        if route.schema_file is not None:
            yield ("routes", position, "schema"), route.schema_file


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
