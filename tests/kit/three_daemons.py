"""Daemons of one consumer group and task hub, with their engine in a process of its own behind a port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kit.processes import DaemonProcess

DAEMONS = 3


def engine_process(directory: Path) -> DaemonProcess:
    """`bridge engine` on a free port; its files are in `directory/engine`."""
    place = directory / "engine"
    place.mkdir(exist_ok=True)
    return DaemonProcess(place, "--listen", "127.0.0.1:0", "--path", "hubs", command="engine")


@contextmanager
def three_daemons(
    directory: Path, configure: Callable[[str], object], partitions: int
) -> Iterator[tuple[DaemonProcess, ...]]:
    """Run three daemons, each of which has a third of the partitions. Their logs are `0.log`, `1.log` and `2.log`.

    configure: function that writes `directory/bridge.yaml`, given the URL of the engine.
    """
    with ExitStack() as stack:
        configure(stack.enter_context(engine_process(directory)).url)
        found = tuple(stack.enter_context(DaemonProcess(directory, log=f"{number}.log")) for number in range(DAEMONS))
        for each in found:
            has_its_share(each, partitions // DAEMONS)
        yield found


def has_its_share(daemon: DaemonProcess, share: int) -> None:
    """Wait until a daemon has a number of partitions."""
    daemon.wait(lambda: len(daemon.metrics("bridge_uncommitted_records")) == share, "partitions")
