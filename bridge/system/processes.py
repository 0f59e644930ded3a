"""State of other processes of this machine, as far as the system reports it."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def is_stopped(pid: str) -> bool:
    """True when a signal has frozen the process. False where the system does not report it."""
    return _state(pid) in ("T", "t")


def is_running(pid: str) -> bool:
    """True for a process that has not ended. False where the system does not report it."""
    return _state(pid) not in ("", "X", "Z")


def has_ended(pid: str) -> bool:
    """True when the process has ended. False where the system does not report it."""
    if state := _state(pid):
        return state in ("X", "Z")
    if sys.platform == "win32":  # a signal would end it there
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _state(pid: str) -> str:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
