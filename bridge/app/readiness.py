"""How a process that serves says that it is ready."""

from __future__ import annotations

import os
from pathlib import Path

import orjson


def write_ready(ready_file: Path, told: dict[str, object]) -> None:
    """At once and whole, so that whoever waits for the file never reads half of it."""
    beside = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    beside.write_bytes(orjson.dumps(told))
    beside.replace(ready_file)
