from __future__ import annotations

from bridge.brokers.kafka.detectors import StalledPartitionDetector


def test_only_those_that_stand_still_while_records_wait() -> None:
    detector = StalledPartitionDetector()
    for now in range(11):
        detector.observe({"still": (1, True), "moves": (now, True), "idle": (1, False), "late": (now < 8, True)}, now)
    assert detector.longer(5, 10) == {"still": 10}
    assert detector.longer(1, 10) == {"still": 10, "late": 2}
    assert detector.longer(10, 10) == {}


def test_what_is_gone_is_forgotten_and_a_new_look_begins_anew() -> None:
    detector = StalledPartitionDetector()
    detector.observe({"a": (1, True)}, 0)
    detector.observe({}, 5)
    detector.observe({"a": (1, True)}, 9)
    assert detector.longer(1, 10) == {}
