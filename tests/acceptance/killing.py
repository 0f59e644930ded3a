"""Repeated SIGKILL of a daemon while it processes a stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

from bridge.core.message import Message
from tests.acceptance.channel import Channel
from tests.kit.processes import DaemonProcess


def merged(rng: random.Random, lines: Sequence[Sequence[Message]]) -> list[Message]:
    """Merge all lines at random into one stream; each line keeps its order."""
    left = [list(line) for line in lines]
    found = []
    while left := [line for line in left if line]:
        found.append(rng.choice(left).pop(0))
    return found


def killed(
    directory: Path, channel: Channel, stream: Sequence[Message], kills: int, rng: random.Random, *, apart: bool = False
) -> None:
    """Publish the stream in as many pieces as there are kills.

    One daemon runs per piece and is killed somewhere in the piece. apart: intake and worker are two processes, killed
    one after the other in alternating order.
    """
    for turn in range(kills):
        piece = stream[turn * len(stream) // kills : (turn + 1) * len(stream) // kills]
        channel.publish(piece)
        enough = rng.randrange(len(piece) * 3 // 4)
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(DaemonProcess(directory, command="worker", ready=False)) if apart else None
            daemon = stack.enter_context(DaemonProcess(directory, *(["--no-worker"] if apart else [])))
            daemon.wait(lambda daemon=daemon, enough=enough: daemon.settled() >= enough, "some of it is settled")  # type: ignore[misc]  # mypy cannot infer it
            if worker is not None and turn % 2:
                worker.kill()
            daemon.kill()
