"""Writer of an audit trail in a process: arguments DIRECTORY WRITER COUNT."""

from __future__ import annotations

import sys
from pathlib import Path

from bridge.ops.trail import AuditTrail


def main(directory: str, writer: str, count: str) -> None:
    trail = AuditTrail(Path(directory), max_bytes=20_000, max_files=1000)
    for number in range(int(count)):
        trail.append({"target": f"{writer}-{number}", "fill": "x" * 100})


if __name__ == "__main__":
    main(*sys.argv[1:])
