"""State that an older build left behind when it was killed, opened and finished by today's build."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess
from tests.upgrade.opened import RECORDINGS, Opened

pytestmark = pytest.mark.timeout(400)

FINISHED = {"COMPLETED", "FAILED", "TERMINATED"}

REPLAY = """
sources:
  replay: {broker: local, topics: [work.dlq], trusted: replay, no_match: dead_letter}
routes:
  - name: heard-of
    from: replay
    match: {type: unheard-of}
    schedule: {orchestration: recorded, instance_id: "{{ payload.id }}"}
"""
LATE = {"brief-1": ["brief-1"], "halves-1": ["halves-1"], "later-1": "done"}
"""Instances that only replayed dead letters can start or finish, with the ids or results in their outputs."""


@dataclass
class Finished:
    """Recording that was opened, finished and replayed, with observations."""

    it: Opened
    received: dict[str, float]
    """Deliveries by source, before the test sent a message."""
    waiting: list[dict[str, Any]]
    """Early and quarantined messages, before the test sent a message."""
    held: list[dict[str, Any]]
    """Quarantined messages, after one more had come for one of the keys."""
    outcomes: dict[str, float]
    events: dict[str, float]
    """Events of early messages that today's daemon counted."""
    dead_letters: list[dict[str, Any]]
    replayed: dict[str, float]
    """Outcomes of the daemon that replayed the dead letters."""
    instances: dict[str, dict[str, Any]]
    left: list[dict[str, Any]]
    entities: dict[str, Any]


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda path: path.name)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    it = Opened(request.param, tmp_path_factory.mktemp("state"))
    it.open_gate()
    with it.serve() as daemon:
        for source in ("work", "slow"):
            it.until(f"records of {source}", lambda name=source: received(daemon).get(f'{{source="{name}"}}'))  # type: ignore[misc]  # mypy cannot infer it
        before, waiting = received(daemon), it.waiting()
        held = finish(it)
        it.until("every instance finished", lambda: all_finished(it))
        it.until(
            "the dead letter of the expired message", lambda: len(it.topic("work.dlq")) > len(recorded_dead_letters(it))
        )
        it.until("nothing waits", lambda: not it.waiting())
        it.until("nothing in flight", lambda: not any(daemon.metrics("bridge_in_flight").values()))
        outcomes, events = daemon.metrics("bridge_outcomes_total"), daemon.metrics("bridge_early_message_events_total")
        for id_ in ("brief-1", "halves-1"):
            it.start(id_, flow="collects", count=1)
        it.until("the instances of the replay run", lambda: {"brief-1", "halves-1"} <= it.instances().keys())
    dead_letters = it.topic("work.dlq")
    (it.directory / "replay.yaml").write_text(REPLAY)
    config = it.directory / "bridge.yaml"
    config.write_text(config.read_text().replace("from: work\n", "from: [work, replay]\n"))
    it.configs += ("replay.yaml",)
    with it.serve() as daemon:
        it.until(
            "all is replayed",
            lambda: sum(outcome(daemon.metrics("bridge_outcomes_total"), "replay").values()) == len(dead_letters),
        )
        it.until("their instances finished", lambda: all(it.instances()[id_]["status"] in FINISHED for id_ in LATE))
        entities = {
            key: json.loads(it.bridge("entities", "show", key, "--json"))["state"]
            for key in ("stock@a", "tally@halves", "tally@shared")
        }
        yield Finished(
            it, before, waiting, held, outcomes, events, dead_letters, daemon.metrics("bridge_outcomes_total"),
            it.instances(), it.waiting(), entities,
        )  # fmt: skip


def received(daemon: DaemonProcess) -> dict[str, float]:
    return daemon.metrics("bridge_received_total")


def recorded_dead_letters(it: Opened) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = it.expected["dead_letters"]
    return found


def in_milliseconds(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a shown message with its time cut to milliseconds, as older builds showed it."""
    date, _, fraction = shown["timestamp"].rstrip("Z").partition(".")
    return shown | {"timestamp": f"{date}.{fraction[:3] or '000':0<3}Z"}


def finish(it: Opened) -> list[dict[str, Any]]:
    """Send the finishing messages, then release or drop the quarantined keys. Returns the quarantined messages."""

    before = len(it.quarantined())
    it.publish([json.loads(line) for line in (it.recording / "finish.jsonl").read_text().splitlines()])
    it.until("one more message behind its quarantined key", lambda: len(it.quarantined()) > before)
    it.until("the instance of the key runs", lambda: "held-1" in it.instances())
    found = it.quarantined()
    it.bridge("quarantine", "release", "--source", "keyed", "held-1")
    it.bridge("quarantine", "drop", "--source", "keyed", "held-2", "--yes")
    return found


def all_finished(it: Opened) -> bool:
    it.answer()
    known = it.instances()
    return all(id_ in known and known[id_]["status"] in FINISHED for id_ in it.expected["instances"])


def outcome(metrics: dict[str, float], source: str) -> dict[str, int]:
    """Return the outcomes of a source that occurred."""
    words = ("executed", "duplicate", "ignored", "early", "quarantined", "dead_lettered")
    counts = {word: int(metrics.get(f'{{outcome="{word}",source="{source}"}}', 0)) for word in words}
    return {word: count for word, count in counts.items() if count}


def test_every_instance_finishes_as_it_would_have(finished: Finished) -> None:
    for id_, expected in finished.it.expected["instances"].items():
        found = finished.instances[id_]
        assert found["status"] == expected["status"], (id_, found["failure"])
        if isinstance(expected["output"], dict):
            assert expected["output"].items() <= found["output"].items(), id_
        else:
            assert found["output"] == expected["output"], id_
    unfinished = {id_ for id_, each in finished.instances.items() if each["status"] not in FINISHED}
    assert not unfinished, "children and the bridge's own orchestrations too"


def test_steps_of_sagas_keep_their_keys_and_run_no_second_time_once_they_are_done(finished: Finished) -> None:
    it = finished.it
    effects = [json.loads(line) for line in (it.directory / "effects.jsonl").read_text().splitlines()]
    assert effects[: len(it.expected["steps"])] == it.expected["steps"]
    begun = Counter((each["what"], each["step"], each["key"]) for each in effects)
    keys = {what: {(step, key) for kind, step, key in begun if kind == what} for what in ("do", "undo")}
    assert keys["undo"] < keys["do"], "under the keys of what they undo"
    trips = [each["output"] for id_, each in finished.instances.items() if id_.startswith("trip-") and ":" not in id_]
    reached = Counter(step for trip in trips for step in (*trip["completed"], *trip["compensated"]))
    done = Counter(step for step, _ in keys["do"])
    for step in ("stock", "flight", "hotel", "parcel"):
        assert done[step] == len([trip for trip in trips if step in trip["completed"]]), (step, reached)
    undone = Counter(step for step, _ in keys["undo"])
    for step in ("stock", "flight", "hotel", "papers"):
        assert undone[step] == len([trip for trip in trips if step in trip["compensated"]]), step
    # Only steps that the kill interrupted, and the retried step, began twice
    again = {(what, step) for (what, step, _), count in begun.items() if count > 1}
    interrupted = {("do", step) for step in ("stock", "hotel", "papers", "parcel")} | {("undo", "flight")}
    assert again == interrupted


def test_outcomes_and_requests_are_published_once(finished: Finished) -> None:
    for topic in ("results", "service"):
        ids = [each["headers"].get("ce_id") or each["body"]["id"] for each in finished.it.topic(topic)]
        assert len(set(ids)) == len(ids), topic
    received = Counter(each["headers"].get("ce_type") or each["body"]["type"] for each in finished.it.topic("results"))
    outputs = [each["output"] for id_, each in finished.instances.items() if ":" not in id_]
    sagas = Counter(output["status"] for output in outputs if isinstance(output, dict) and "compensated" in output)
    assert received["trip.completed"] + received["purchase.completed"] == sagas["completed"]
    assert received["trip.compensated"] + received["purchase.compensated"] == sagas["compensated"]
    assert received["answered"] == 1


def test_early_messages_are_delivered_and_counted(finished: Finished) -> None:
    lasting = [each for each in finished.it.expected["waiting"] if each["instance_id"] != "brief-1"]
    found = [each for each in finished.waiting if each["instance_id"] != "brief-1"]
    for now, then in zip(found, lasting, strict=True):
        # A message that follows another names it since
        then = then | ({"detail": now["detail"]} if then["reason"] == "follows" else {})
        assert {name: now[name] for name in then} == then
    assert finished.left == []
    delivered = finished.events['{engine="default",event="delivered"}']
    # One more message came before the early messages were delivered, or it went straight to the instance
    assert delivered in (3, 4)
    assert finished.events['{engine="default",event="expired"}'] == 1


def test_a_quarantined_key_is_still_held_released_in_order_and_counted(finished: Finished) -> None:
    assert [(each["key"], each["reason"]) for each in finished.held] == [
        ("held-2", "decode_error"), ("held-1", "instance_not_found"), ("held-2", "follows"),
        ("held-1", "follows"), ("held-1", "follows"), ("held-1", "follows"),
    ]  # fmt: skip
    # It was quarantined behind the others; then all four were executed
    assert outcome(finished.outcomes, "keyed") == {"quarantined": 1, "executed": 4}
    dropped = finished.it.topic("keyed.dlq")
    assert [each["headers"]["bridge.reason"] for each in dropped] == ["quarantine_dropped"] * 2
    # Each is written by an orchestration of its own
    assert {each["headers"]["bridge.offset"] for each in dropped} == {
        each["position"].rpartition("@")[2] for each in finished.waiting if each["key"] == "held-2"
    }


def test_dead_letters_are_read_and_can_be_replayed(finished: Finished) -> None:
    recorded = recorded_dead_letters(finished.it)
    now = finished.dead_letters
    if all(len(each["timestamp"].rstrip("Z").partition(".")[2]) <= 3 for each in recorded):
        now = [in_milliseconds(each) for each in now]
    assert [each for each in now if each in recorded] == recorded
    [expired] = [each for each in now if each not in recorded]
    assert expired["headers"]["bridge.reason"] == "early_expired"
    assert expired["body"]["data"]["id"] == "brief-1"
    assert outcome(finished.replayed, "replay") == {"executed": 3, "dead_lettered": 2}
    for id_, output in LATE.items():
        found = finished.instances[id_]["output"]
        assert ([each["id"] for each in found] if isinstance(found, list) else found) == output
    assert finished.entities["tally@halves"] == 3, "the route that had been executed is not executed again"
    again = {each["body"]: each["headers"] for each in finished.it.topic("work.dlq.dlq")}
    for dead_letter in recorded:
        if dead_letter["headers"]["bridge.reason"] == "decode_error":
            headers = again[dead_letter["body"]]
            assert headers["bridge.source"] == "replay"
            for origin in ("cluster", "topic", "partition", "offset", "timestamp"):
                assert headers[f"bridge.{origin}"] == dead_letter["headers"][f"bridge.{origin}"]


def test_the_log_goes_on_with_nothing_lost_or_repeated(finished: Finished) -> None:
    assert finished.received['{source="work"}'] == 1, "the message that nobody had received"
    assert finished.received['{source="slow"}'] == 1, "the message that is tried again, and none of those done above it"
    assert not finished.received['{source="answers"}']
    assert not finished.received['{source="keyed"}']
    assert outcome(finished.outcomes, "slow") == {"executed": 1}
    for topic, ends in finished.it.expected["ends"].items():
        offsets: dict[str, list[int]] = {}
        for each in finished.it.topic(topic):
            offsets.setdefault(str(each["partition"]), []).append(each["offset"])
        for partition, end in ends.items():
            assert offsets[partition] == list(range(len(offsets[partition]))), (topic, partition)
            assert len(offsets[partition]) >= end
    assert len(finished.it.topic("slow")) == sum(finished.it.expected["ends"]["slow"].values())


def test_repeats_are_known(finished: Finished) -> None:
    """Repeated starts of a finished and of a running instance, a repeated count and repeated events are duplicates."""
    assert outcome(finished.outcomes, "work")["duplicate"] == 2
    assert "dead_lettered" not in outcome(finished.outcomes, "work")
    assert finished.entities["stock@a"] == 12
    assert finished.entities["tally@shared"] == 2
