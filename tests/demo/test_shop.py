"""Input of the demo for the bridge's commands."""

from __future__ import annotations

import json
from pathlib import Path

from bridge.config.model.routes import WaitMissing
from bridge.config.source import load
from demo import generate, shop
from demo.oracle import expect


def test_the_overlay_fits_the_sample_configuration(tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(json.dumps(shop.overlay(tmp_path)))
    config = load([shop.CONFIG], [file], environ={}).config
    assert config.engines["default"].path == str(tmp_path / "engine")  # type: ignore[union-attr]  # the test knows which one it is
    assert config.brokers["local"].path == str(tmp_path / "broker")  # type: ignore[union-attr]  # the test knows which one it is
    assert config.ops.http.port == 0
    route = next(route for route in config.routes if route.name == "payment-result")
    assert route.raise_event is not None
    assert route.raise_event.on_missing == WaitMissing(wait=shop.WAIT)
    assert config.sources["shipments"].quarantine is not None
    assert config.sources["replay"].trusted == "replay"


def test_every_line_becomes_one_that_publish_takes() -> None:
    lines = [line for line in generate.load() if "act" not in line]
    bodies = [shop.body(line) for line in lines]
    assert all(set(body) == {"topic", "key", "headers", "body"} for body in bodies)
    assert [body["body"] for body in bodies if isinstance(body["body"], str)] == [
        line["raw"] for line in lines if "raw" in line
    ]


def test_the_topics_are_sources_and_dead_letters_come_from_them() -> None:
    lines = [line for line in generate.load() if "act" not in line]
    config = load([shop.CONFIG], environ={}).config
    topics = {topic for source in config.sources.values() for topic in source.topics}
    assert {line["topic"] for line in lines} == topics
    assert {source for source, _ in expect(lines).dead_letters} <= set(config.sources)


def test_a_shop_that_never_opened_closes_and_has_nothing_to_say(tmp_path: Path) -> None:
    with shop.Shop(tmp_path) as closed:
        assert closed.last_words() == ""
