"""`bridge tap` over three daemons in one group: messages of all, also while one is frozen and after one was killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.test_status import PARTITIONS, Topic, daemons, topic
from tests.cli.test_tap import tap
from tests.kit.processes import DaemonProcess

__all__ = ["daemons", "topic"]


@pytest.mark.timeout(240)
def test_the_messages_of_three_daemons_come_together_of_which_one_is_frozen(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, killed, lives = daemons
    with tap(tmp_path, "--outcome", "dead_lettered", "--rate", "1000/s", watching=3) as found:
        topic[1].publish(4 * PARTITIONS)
        found.wait(lambda: len(found.lines) == 4 * PARTITIONS, "the messages of all")
        assert {each["daemon"].rpartition("/")[2] for each in found.seen} == {str(each.pid) for each in daemons}
        assert len({(each["partition"], each["offset"]) for each in found.seen}) == 4 * PARTITIONS
        frozen.signal(signal.SIGSTOP)
        killed.kill()
        found.wait(lambda: f"kill -CONT {frozen.pid}" in found.notes, "the frozen one is named")
        found.wait(lambda: f"{killed.pid} has closed the connection" in found.notes, "the killed one is named")
        before = len(found.lines)
        topic[1].publish(PARTITIONS)
        found.wait(lambda: len(found.lines) >= before + PARTITIONS // 3, "the messages of the one that lives")
        assert {each["daemon"].rpartition("/")[2] for each in found.seen[before:]} == {str(lives.pid)}
        frozen.signal(signal.SIGCONT)
        found.wait(lambda: "answers again" in found.notes, "the frozen one is back")
        assert found.end() == 0
