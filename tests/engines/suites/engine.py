"""Fresh `bridge engine` on a free loopback port, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.waiting import TIMEOUT, eventually_blocking


@contextmanager
def engine(directory: Path) -> Iterator[int]:
    """Start an engine and yield its port.

    directory: created for the engine's files; its log stays there as `engine.log`.
    Raises: AssertionError when the engine is not ready in time; RuntimeError when it ends before it is stopped.
    """
    directory.mkdir()
    ready, log = directory / "ready.json", directory / "engine.log"
    command = [sys.executable, "-m", "bridge", "engine", "--listen", "127.0.0.1:0", "--path", str(directory / "hubs")]
    with (
        log.open("w") as out,
        subprocess.Popen([*command, "--ready-file", str(ready)], stdout=out, stderr=out) as child,
    ):
        try:
            eventually_blocking(lambda: ready.exists() or child.poll() is not None, lambda: log.read_text()[-4000:])
            if not ready.exists():
                raise RuntimeError(f"the engine did not start: {log.read_text()[-4000:]}")
            yield int(json.loads(ready.read_text())["address"].rpartition(":")[2])
            if child.poll() is not None:
                raise RuntimeError(f"the engine ended by itself: {log.read_text()[-4000:]}")
        finally:
            child.terminate()
            child.wait(TIMEOUT)
