"""Ready file, which reports to the starter of a process that it is ready. Written atomically."""

from __future__ import annotations

from pathlib import Path

import orjson

from bridge.core.errors import BridgeError
from bridge.system import private


def clear_ready(ready_file: Path) -> None:
    """Remove the ready file of an earlier process. Raises: BridgeError."""
    try:
        ready_file.unlink(missing_ok=True)
        if not ready_file.parent.is_dir():
            raise BridgeError(
                f"cannot write the ready file {ready_file}: the directory {ready_file.parent} does not exist"
            )
    except OSError as error:
        raise BridgeError(f"cannot write the ready file {ready_file}: {error.strerror}") from None


def write_ready(ready_file: Path, document: dict[str, object]) -> None:
    """Write the ready file atomically, readable only for its owner. Raises: BridgeError."""
    try:
        with private.replacing(ready_file) as out:
            out.write(orjson.dumps(document))
    except OSError as error:
        raise BridgeError(f"cannot write the ready file {ready_file}: {error.strerror}") from None
