"""Tells whoever started a process that it is ready: a file, written whole."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from bridge.errors import BridgeError


def clear_ready(ready_file: Path) -> None:
    """Whoever waits for the file must not find that of an earlier process. Raises: BridgeError."""
    try:
        ready_file.unlink(missing_ok=True)
        if not ready_file.parent.is_dir():
            raise BridgeError(f"ready file {ready_file}: there is no directory {ready_file.parent}")
    except OSError as error:
        raise BridgeError(f"ready file {ready_file} cannot be written: {error.strerror}") from None


def write_ready(ready_file: Path, told: dict[str, object]) -> None:
    """At once and whole, so that whoever waits for the file never reads half of it. Raises: BridgeError."""
    beside = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    try:
        beside.write_bytes(orjson.dumps(told))
        beside.replace(ready_file)
    except OSError as error:
        raise BridgeError(f"ready file {ready_file} cannot be written: {error.strerror}") from None
