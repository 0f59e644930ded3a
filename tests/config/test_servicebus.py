"""Sources and targets of Service Bus, and fields that do not match the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.app.composition import load_config, subscribe_options
from bridge.app.messages.publish import destination
from bridge.brokers.base import SubscribeOptions
from bridge.brokers.factory import message_shape
from bridge.config.model.servicebus import SessionsConfig
from bridge.config.source import Loaded
from bridge.core.errors import ConfigError
from bridge.core.message import Message


def written(directory: Path, source: dict[str, Any], target: dict[str, Any] | None = None) -> Path:
    document = {
        "engine": {"type": "embedded"},
        "brokers": {
            "bus": {"type": "servicebus", "namespace": "shop"},
            "local": {"type": "local"},
            "kafka": {"type": "kafka", "bootstrap_servers": "a:1"},
        },
        "targets": {"t": target or {"broker": "bus", "queue": "q"}},
        "sources": {"s": {"no_match": "ignore", **source}},
        "routes": [{"name": "r", "from": "s", "ignore": {}}],
    }
    path = directory / "bridge.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def loaded(directory: Path, source: dict[str, Any], target: dict[str, Any] | None = None) -> Loaded:
    return load_config([written(directory, source, target)])


@pytest.mark.parametrize(
    ("source", "path", "entrance"),
    [
        ({"queue": "a/b"}, "a/b", "a/b"),
        ({"topic": "t", "subscription": "s"}, "t/Subscriptions/s", "t"),
        ({"queue": "q", "sub_queue": "dead_letter"}, "q/$DeadLetterQueue", None),
        (
            {"topic": "t", "subscription": "s", "sub_queue": "transfer_dead_letter"},
            "t/Subscriptions/s/$Transfer/$DeadLetterQueue",
            None,
        ),
    ],
)
def test_what_is_read(tmp_path: Path, source: dict[str, Any], path: str, entrance: str | None) -> None:
    found = loaded(tmp_path, {"broker": "bus", **source})
    assert subscribe_options(found, "s") == SubscribeOptions((path,), dead_letter=None, max_hold=300.0)
    if entrance is None:
        with pytest.raises(LookupError, match="no topic or queue to publish to"):
            destination(found, "s")
    else:
        assert destination(found, "s").topic == entrance
        assert destination(found, f"bus/{entrance}").codec == "cloudevents"


def test_receiver_options(tmp_path: Path) -> None:
    source = {
        "broker": "bus", "queue": "q", "sessions": {"concurrent": 3, "idle": "2s", "turn": "1m"},
        "servicebus": {"prefetch": 7, "receivers": 2}, "dead_letter": "letters",
    }  # fmt: skip
    options = subscribe_options(loaded(tmp_path, source), "s")
    assert options.sessions == SessionsConfig.model_validate({"concurrent": 3, "idle": "2s", "turn": "60s"})
    assert (options.servicebus.prefetch, options.servicebus.receivers) == (7, 2)
    assert options.dead_letter == "letters"
    found = loaded(tmp_path, {"broker": "bus", "queue": "q", "sessions": False})
    assert subscribe_options(found, "s").sessions is None


@pytest.mark.parametrize(
    ("source", "where", "what"),
    [
        ({"broker": "bus"}, "sources.s", "write either `queue`, or `topic` and `subscription`"),
        ({"broker": "bus", "queue": "q", "topic": "t"}, "sources.s", "write either"),
        ({"broker": "bus", "topic": "t"}, "sources.s", "need each other"),
        ({"broker": "bus", "queue": "q", "subscription": "s"}, "sources.s", "need each other"),
        ({"broker": "bus", "topics": ["t"]}, "sources.s.topics", "has no `topics`; write `queue`"),
        ({"broker": "bus", "queue": "q", "group": "g"}, "sources.s.group", "has no `group`"),
        ({"broker": "bus", "queue": "q", "start": "latest"}, "sources.s.start", "has no `start`"),
        ({"broker": "bus", "queue": "q", "kafka": {}}, "sources.s.kafka", "type servicebus, not kafka"),
        ({"broker": "local", "topics": ["t"], "queue": "q"}, "sources.s.queue", "has no `queue`; write `topics`"),
        ({"broker": "kafka", "topics": ["t"], "sessions": True}, "sources.s.sessions", "has no `sessions`"),
        ({"broker": "kafka", "topics": ["t"], "servicebus": {}}, "sources.s.servicebus", "type kafka, not servicebus"),
        ({"broker": "kafka"}, "sources.s", "`topics` is missing"),
        (
            {"broker": "bus", "queue": "q", "sub_queue": "dead_letter", "sessions": True},
            "sources.s.sessions",
            "no sess",
        ),
        ({"broker": "bus", "queue": "q", "dead_letter": "q"}, "sources.s.dead_letter", "this source reads"),
        ({"broker": "local", "topics": ["t"], "dead_letter": "a/b"}, "sources.s.dead_letter", "characters"),
        ({"broker": "bus", "queue": "/q"}, "sources.s.queue", "characters"),
        ({"broker": "bus", "topic": "t", "subscription": "s/s"}, "sources.s.subscription", "characters"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, source: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ConfigError) as received:
        loaded(tmp_path, source)
    assert any(problem.path == where and what in problem.what for problem in received.value.problems), received.value


@pytest.mark.parametrize("dead_letters", [None, "buried"])
@pytest.mark.parametrize("kind", ["dead_letter", "transfer_dead_letter"])
def test_dead_letters_of_a_sub_queue_need_a_queue(tmp_path: Path, kind: str, dead_letters: str | None) -> None:
    source = {"broker": "bus", "queue": "q", "sub_queue": kind, "dead_letter": dead_letters}
    found = [each for each in loaded(tmp_path, source).warnings if each.path == "sources.s.sub_queue"]
    assert len(found) == (dead_letters is None)
    assert all("`dead_letter`" in each.what for each in found)


@pytest.mark.parametrize(
    ("target", "where", "what"),
    [
        ({"broker": "bus"}, "targets.t", "write either `queue` or `topic`"),
        ({"broker": "bus", "queue": "q", "topic": "t"}, "targets.t", "write either"),
        ({"broker": "local", "queue": "q"}, "targets.t.queue", "has no `queue`"),
        ({"broker": "local"}, "targets.t", "`topic` is missing"),
        ({"broker": "kafka", "topic": "a/b"}, "targets.t.topic", "characters"),
        ({"broker": "kafka", "topic": "t", "servicebus": {}}, "targets.t.servicebus", "not servicebus"),
    ],
)
def test_targets_are_checked(tmp_path: Path, target: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ConfigError) as received:
        loaded(tmp_path, {"broker": "bus", "queue": "q"}, target)
    assert any(problem.path == where and what in problem.what for problem in received.value.problems), received.value


def test_one_entity_has_one_source(tmp_path: Path) -> None:
    path = written(tmp_path, {"broker": "bus", "queue": "Q"})
    document = yaml.safe_load(path.read_text())
    document["sources"]["other"] = {"broker": "bus", "queue": "q", "no_match": "ignore"}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="`q` is read by the source"):
        load_config([path])


@pytest.mark.parametrize(
    ("options", "key", "partition"),
    [({}, b"k", None), ({"key": "partition"}, None, "k"), ({"key": "none"}, None, None)],
)
def test_what_a_target_makes_of_a_key(
    tmp_path: Path, options: dict[str, Any], key: bytes | None, partition: str | None
) -> None:
    target = {"broker": "bus", "queue": "q", "servicebus": {"time_to_live": "1m", **options}}
    shape = message_shape(loaded(tmp_path, {"broker": "bus", "queue": "q"}, target).config.targets["t"])
    shaped = shape(Message(b"", b"k"))
    assert (shaped.key, shaped.partition_key, shaped.time_to_live) == (key, partition, 60.0)
    assert shape(Message(b"", time_to_live=5.0)).time_to_live == 5.0
    if partition is not None:
        assert shape(Message(b"", b"M\xfcller")).partition_key != shape(Message(b"", b"M\xf6ller")).partition_key
