"""Process that kills itself before its n-th file-system change, during a backup or a restore.

`backup_child.py N COMMAND ARGUMENT...`: exit code 0 when the command completes first.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from bridge.sqlite_engine.maintenance import backups

CHANGES = {
    "open",
    "os.link",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.chmod",
    "sqlite3.connect",
    "sqlite3.connect/handle",
}


def die_before(number: int) -> None:
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def progress(done: int, total: int) -> None:
    """Count each copied piece as a change."""
    sys.audit("open", "piece", done, total)


def main() -> None:
    number, command, *paths = sys.argv[1:]
    die_before(int(number))
    first, second = map(Path, paths)
    if command == "backup":
        backups.backup(first, second, progress=progress)
    else:
        assert not backups.restore(first, second, progress).problems


if __name__ == "__main__":
    main()
