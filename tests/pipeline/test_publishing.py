"""Publish activity: from a thread, through a codec that may ask a registry first, to a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.app.codecs import build_registries, target_codec
from bridge.app.composition import build_broker, load_config
from bridge.codecs.confluent.wire import read
from bridge.core.errors import DecodeError, RegistryUnavailable, SchemaError, UnknownTarget
from bridge.pipeline.publishing import UNKNOWN, Publishing, PublishTarget
from tests.kit.listener import NullListener
from tests.registry import RegistryServer

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
registries: {main: {url: URL, timeout: 2s}}
targets:
  results: {broker: local, topic: results, codec: avro, schemas: {file: result.avsc, auto_register: true}}
  latest: {broker: local, topic: latest, codec: avro}
"""
RESULT = '{"type": "record", "name": "Result", "fields": [{"name": "id", "type": "string"}]}'


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


async def test_a_schema_is_found_before_the_first_message_and_its_failure_is_the_activity_s(
    tmp_path: Path, server: RegistryServer
) -> None:
    (tmp_path / "result.avsc").write_text(RESULT)
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG.replace("URL", server.url))
    loaded = load_config([path])
    registries = build_registries(loaded)
    broker = build_broker(loaded, "local")
    await broker.start()
    targets = {
        name: PublishTarget(broker, name, target_codec(loaded, name, registries), "/s", 30.0)
        for name in ("results", "latest")
    }
    publishing = Publishing(targets, asyncio.get_running_loop())

    async def publish(target: str, data: Any, **extensions: str) -> str:
        request = {"target": target, "id": "e-1", "type": "t", "data": data, "key": "k", "extensions": extensions}
        return await asyncio.to_thread(publishing, request)

    server.stop()
    with pytest.raises(RegistryUnavailable):
        await publish("results", {"id": "a"})
    server.start()
    assert await publish("results", {"id": "a"}) == "e-1"
    with pytest.raises(DecodeError, match=r"data\.id must be a string"):
        await publish("results", {"id": 1})
    with pytest.raises(SchemaError, match="does not have the latest schema of latest-value"):
        await publish("latest", {"id": "a"})
    server.register("latest-value", RESULT)
    await publish("latest", {"id": "a"}, schemaid="1", recordname="Result")
    with pytest.raises(DecodeError, match=r"has no shop\.Other"):
        await publish("latest", {"id": "a"}, recordname="shop.Other")
    with pytest.raises(UnknownTarget, match="target 'nowhere' is not configured; configured targets: latest, results"):
        await publish("nowhere", None)
    assert (publishing.published, publishing.failed) == (
        {"results": 1, "latest": 1},
        {"results": 2, "latest": 2, UNKNOWN: 1},
    )
    from bridge.brokers.base import SubscribeOptions

    subscription = await broker.subscribe(SubscribeOptions(("results",), "g"), NullListener())
    [delivery] = await subscription.receive(10)
    assert read(delivery.message, indexed=False).schema == 1
    assert dict(delivery.message.headers)["ce_id"] == b"e-1"
    await broker.stop()
    for registry in registries.values():
        await registry.close()
