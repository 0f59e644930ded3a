from __future__ import annotations

from bridge.brokers.kafka.detectors import StalledPartitionDetector


def test_only_those_that_stand_still_while_records_wait() -> None:
    stalls = StalledPartitionDetector()
    for now in range(11):
        stalls.observe({"still": (1, True), "moves": (now, True), "idle": (1, False), "late": (now < 8, True)}, now)
    assert stalls.longer(5, 10) == {"still": 10}
    assert stalls.longer(1, 10) == {"still": 10, "late": 2}
    assert stalls.longer(10, 10) == {}


def test_what_is_gone_is_forgotten_and_a_new_look_begins_anew() -> None:
    stalls = StalledPartitionDetector()
    stalls.observe({"a": (1, True)}, 0)
    stalls.observe({}, 5)
    stalls.observe({"a": (1, True)}, 9)
    assert stalls.longer(1, 10) == {}
