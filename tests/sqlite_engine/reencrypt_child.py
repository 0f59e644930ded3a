"""Process that kills itself before its n-th step while it rewrites a file.

`reencrypt_child.py N FILE`: exit code 0 when the rewrite completes first.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from bridge.encryption import Key, Keyring
from bridge.sqlite_engine.maintenance import reencryption
from bridge.sqlite_engine.storage import schema

STEPS = ("BEGIN", "COMMIT", "DELETE", "PRAGMA journal_mode", "PRAGMA user_version", "VACUUM", "CREATE", "INSERT")


class Dying(sqlite3.Connection):
    """Connection that counts its statements and kills the process at the last one."""

    left = 0

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql.strip().startswith(STEPS):
            Dying.left -= 1
            if Dying.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *arguments)


def main() -> None:
    Dying.left = int(sys.argv[1])
    connect = sqlite3.connect

    def dying(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Dying, **options)

    schema.sqlite3.connect = dying  # type: ignore[attr-defined]  # the test replaces what the module uses
    reencryption.BATCH_ROWS = 10
    keys = [Key("new", bytes([2]) * 32), Key("old", bytes([1]) * 32)]
    reencryption.reencrypt(Path(sys.argv[2]), Keyring(keys))


if __name__ == "__main__":
    main()
