from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bridge.app.composition import build_broker, build_decoder, build_source, load_config
from bridge.brokers.base import SubscribeOptions, UnreadablePolicy
from bridge.config.model.sources import KafkaSourceConfig
from bridge.core.errors import ConfigError
from bridge.core.message import Message, Position

CONFIG = """
engine: {type: embedded}
brokers:
  events: {type: kafka, bootstrap_servers: "localhost:9092"}
sources:
  orders:
    broker: events
    topics: []
    group: g
    no_match: ignore
    kafka: {pattern: "orders[.]", instance_id: pod-1, on_out_of_range: latest, isolation: read_uncommitted}
"""


def write(directory: Path, text: str = CONFIG) -> Path:
    path = directory / "bridge.yaml"
    path.write_text(text)
    return path


def test_a_missing_extra_is_named_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[:3] == ["bridge", "brokers", "kafka"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    loaded = load_config([write(tmp_path)])
    with pytest.raises(
        ConfigError, match=r"bridge.yaml:4:18 C014 brokers.events.type: the package aiokafka is missing; .*'aiokafka\["
    ):
        build_broker(loaded, "events")


def test_what_only_a_kafka_source_has_reaches_the_broker(tmp_path: Path) -> None:
    loaded = load_config([write(tmp_path)])
    source = build_source(loaded, "orders", {"events": build_broker(loaded, "events")}, {})
    assert source.settings.subscribe == SubscribeOptions(
        (),
        "g",
        kafka=KafkaSourceConfig(
            pattern="orders[.]", instance_id="pod-1", isolation="read_uncommitted", on_out_of_range="latest"
        ),
        unreadable=UnreadablePolicy("dead_letter", "stop_partition"),
    )


@pytest.mark.parametrize(
    ("server", "setting", "decoded"),
    [
        ("contoso.servicebus.windows.net:9093", "", True),
        ("contoso.servicebus.windows.net:9093", "amqp_headers: false", False),
        ("localhost:9092", "", False),
        ("localhost:9092", "amqp_headers: true", True),
        ("servicebus.windows.net.example.com:9093", "", False),
    ],
)
def test_header_values_of_event_hubs_are_decoded(tmp_path: Path, server: str, setting: str, decoded: bool) -> None:
    text = CONFIG.replace("localhost:9092", server).replace("no_match: ignore", "no_match: ignore\n    codec: json")
    text = text.replace('{pattern: "orders[.]",', f'{{pattern: "orders[.]", {setting}{"," if setting else ""}')
    loaded = load_config([write(tmp_path, text)])
    decoder = build_decoder(loaded, "orders")
    envelope = decoder.decode(Message(b"1", headers=(("h", b"\xa1\x01x"),)), Position("c", "orders", 0, 1))
    assert (envelope.headers["h"] == "x") is decoded
    # The broker itself delivers the stored message
    build_source(loaded, "orders", {"events": build_broker(loaded, "events")}, {})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("topics: []", "topics: [a]"), "`pattern` selects the topics; write `topics: []`"),
        (('pattern: "orders[.]", ', ""), "must have at least one entry"),
        (('type: kafka, bootstrap_servers: "localhost:9092"', "type: local"), "is of type local, not kafka"),
        (("localhost:9092", "localhost"), "'localhost' is not a server; write host:port"),
        (("orders[.]", "orders["), "not a regular expression"),
        (('"localhost:9092"', '"a:1", sasl: {mechanism: PLAIN}'), "PLAIN needs `username` and `password`"),
        (('"localhost:9092"', '"a:1", sasl: {mechanism: OAUTHBEARER}'), "OAUTHBEARER needs `token`"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: tuple[str, str], what: str) -> None:
    with pytest.raises(ConfigError) as received:
        load_config([write(tmp_path, CONFIG.replace(*change))])
    assert what in str(received.value)
