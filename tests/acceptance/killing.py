"""kill -9 of a daemon while it works through a stream, in steps of the stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

from bridge.message import Message

from .channel import Channel
from .daemon import Serve


def merged(rng: random.Random, lines: Sequence[Sequence[Message]]) -> list[Message]:
    """One stream of all, at random; each line keeps its own order."""
    left = [list(line) for line in lines]
    found = []
    while left := [line for line in left if line]:
        found.append(rng.choice(left).pop(0))
    return found


def killed(
    directory: Path, channel: Channel, stream: Sequence[Message], kills: int, rng: random.Random, *, apart: bool = False
) -> None:
    """Publish the stream in as many pieces as there are kills; one daemon per piece, ended somewhere in its middle.

    apart: intake and worker are two processes; one is killed, the other one a moment later.
    """
    for turn in range(kills):
        piece = stream[turn * len(stream) // kills : (turn + 1) * len(stream) // kills]
        channel.publish(piece)
        enough = rng.randrange(len(piece) * 3 // 4)
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(Serve(directory, command="worker")) if apart else None
            daemon = stack.enter_context(Serve(directory, *(["--no-worker"] if apart else [])))
            daemon.wait(lambda daemon=daemon, enough=enough: daemon.settled() >= enough, "some of it is settled")
            if worker is not None and turn % 2:
                worker.kill()
            daemon.kill()
