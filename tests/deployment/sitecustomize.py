"""Audit hook: Python imports this module at start and reports the paths of written files to a descriptor."""

from __future__ import annotations

import os
import sys

_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "sqlite3.connect")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    place = arguments[0] if opened or event in _CHANGES else None
    if isinstance(place, str | bytes | os.PathLike):
        os.write(_descriptor, os.fsencode(os.path.abspath(os.fsdecode(place))) + b"\n")  # noqa: PTH100 -- os.PathLike too


_descriptor = int(os.environ.get("BRIDGE_AUDIT", "-1"))
if _descriptor >= 0:
    sys.addaudithook(_hook)
