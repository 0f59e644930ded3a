"""One Kafka broker shared by all test processes that run on a machine at the same time.

The first test process starts a supervisor process. The supervisor runs the broker while any process holds the lock
file. The kernel releases the locks of dead processes, and the broker ends however the tests end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.node import STARTS_WITHIN, Node

POLL_SECONDS = 0.3


def _place() -> Path:
    root = str(Path(__file__).resolve().parents[2]).replace("/", "-")
    return Path(tempfile.gettempdir()) / f"kafka-tests{root}-{os.getuid()}"


@contextmanager
def shared_broker() -> Iterator[str]:
    """Yield the address of a running broker."""
    place = _place()
    place.mkdir(mode=0o700, exist_ok=True)
    with (place / "users").open("a") as users:
        # Waits for an ending supervisor, which holds this lock exclusively until its process has ended
        fcntl.flock(users, fcntl.LOCK_SH)
        yield _bootstrap(place)


def _bootstrap(place: Path) -> str:
    end = time.monotonic() + STARTS_WITHIN + 10
    while time.monotonic() < end:
        with (place / "lock_file").open("a") as lock_file, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (place / "ready").unlink(missing_ok=True)
            # The supervisor inherits the lock and releases it when its process ends
            subprocess.Popen(
                [sys.executable, "-m", "tests.kafka.shared", str(place)],
                cwd=Path(__file__).parents[2],
                start_new_session=True,
                pass_fds=(lock_file.fileno(),),
            )
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            received = json.loads((place / "ready").read_text())
            if "error" in received:
                raise RuntimeError(received["error"])
            return str(received["bootstrap"])
        time.sleep(0.05)
    raise RuntimeError("the broker does not answer")


def _keep(place: Path) -> None:
    """Run the broker until no process holds the lock."""
    ready = place / "ready"
    users = (place / "users").open("a")
    with tempfile.TemporaryDirectory(prefix="kafka-node-") as directory:
        node = Node(Path(directory) / "node")
        try:
            try:
                node.start()
                ready.write_text(json.dumps({"bootstrap": node.bootstrap}))
            except Exception as error:
                ready.write_text(json.dumps({"error": str(error)}))
            while True:
                time.sleep(POLL_SECONDS)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
        finally:
            ready.unlink(missing_ok=True)
            node.kill()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
