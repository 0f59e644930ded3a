"""State of other processes of this machine, as far as the system reports it."""

from __future__ import annotations

from pathlib import Path


def is_stopped(pid: str) -> bool:
    """True when a signal has frozen the process. False where the system does not report it."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
