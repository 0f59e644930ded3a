"""One broker for all test processes of a machine that run at the same time.

Whoever comes first starts a keeper process, which runs the broker for as long as anybody holds the lock file. The kernel
releases the locks of processes that die, so the broker ends whatever happens to the tests.
"""

from __future__ import annotations

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

LOOK_SECONDS = 0.3


def _place() -> Path:
    root = str(Path(__file__).resolve().parents[2]).replace("/", "-")
    return Path(tempfile.gettempdir()) / f"kafka-tests{root}-{os.getuid()}"


@contextmanager
def shared_broker() -> Iterator[str]:
    """The address of a running broker."""
    place = _place()
    place.mkdir(mode=0o700, exist_ok=True)
    with (place / "users").open("a") as users:
        with (place / "turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)
            with (place / "keeper").open("a") as keeper:
                try:
                    fcntl.flock(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # it runs, and will not end while we hold our lock
                else:
                    (place / "ready").unlink(missing_ok=True)
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.kafka.shared", str(place)],
                        cwd=Path(__file__).parents[2],
                        start_new_session=True,
                        pass_fds=(keeper.fileno(),),
                        env=os.environ | {"KAFKA_KEEPER_LOCK": str(keeper.fileno())},
                    )
            yield _ready(place)


def _ready(place: Path) -> str:
    end = time.monotonic() + STARTS_WITHIN + 10
    while time.monotonic() < end:
        try:
            told = json.loads((place / "ready").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.05)
            continue
        if "error" in told:
            raise RuntimeError(told["error"])
        return str(told["bootstrap"])
    raise RuntimeError("the keeper of the broker does not answer")


def _keep(place: Path) -> None:
    """Run the broker until nobody holds the lock. The keeper's own lock is inherited and ends with this process."""
    ready = place / "ready"
    with tempfile.TemporaryDirectory(prefix="kafka-node-") as directory:
        node = Node(Path(directory) / "node")
        try:
            try:
                node.start()
            except Exception as error:
                ready.write_text(json.dumps({"error": str(error)}))
                return
            ready.write_text(json.dumps({"bootstrap": node.bootstrap}))
            with (place / "users").open("a") as users:
                while True:
                    time.sleep(LOOK_SECONDS)
                    try:
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        continue
            ready.unlink(missing_ok=True)
        finally:
            node.kill()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
