"""Freed messages return to the operating system, also those that lay among small objects."""

from __future__ import annotations

import subprocess
import sys

HOLES = """
import sys
import psutil

if sys.argv[1] == "tuned":
    from bridge.system.memory import tune_memory
    tune_memory()

process = psutil.Process()
message = b"z" * (8 << 20)
del message
before = process.memory_info().rss
messages, objects = [], []
for _ in range(64):
    messages.append(b"z" * (1 << 20))
    objects.append(b"z" * 100_000)
messages.clear()
print((process.memory_info().rss - before) >> 20)
"""


def test_freed_messages_leave_no_holes() -> None:
    def kept(mode: str) -> int:
        """Return the MiB that the process keeps of 64 MiB of freed messages."""
        done = subprocess.run([sys.executable, "-c", HOLES, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert kept("tuned") < 16 < 48 < kept("plain")
