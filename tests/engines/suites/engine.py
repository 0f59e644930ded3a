"""Fresh `bridge engine` on a free loopback port, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 60.0


@contextmanager
def engine(directory: Path) -> Iterator[int]:
    """Start an engine and yield its port.

    directory: created for the engine's files; its log stays there as `engine.log`. Raises: RuntimeError when the engine
    does not start, or ends before it is stopped.
    """
    directory.mkdir()
    ready, log = directory / "ready.json", directory / "engine.log"
    command = [sys.executable, "-m", "bridge", "engine", "--listen", "127.0.0.1:0", "--path", str(directory / "hubs")]
    with (
        log.open("w") as out,
        subprocess.Popen([*command, "--ready-file", str(ready)], stdout=out, stderr=out) as child,
    ):
        try:
            until = time.monotonic() + TIMEOUT
            while not ready.exists():
                if child.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the engine did not start: {log.read_text()[-4000:]}")
                time.sleep(0.05)
            yield int(json.loads(ready.read_text())["address"].rpartition(":")[2])
            if child.poll() is not None:
                raise RuntimeError(f"the engine ended by itself: {log.read_text()[-4000:]}")
        finally:
            child.terminate()
            child.wait(TIMEOUT)
