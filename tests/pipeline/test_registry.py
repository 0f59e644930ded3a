"""Messages with a schema in a registry: an unreachable registry is an outage, an unknown schema is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.app.serve.views.watch import SourceView
from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.confluent.wire import write
from bridge.core.message import Message
from tests.kit.pipeline import PipelineFixture, offsets_by_key, running_pipeline
from tests.kit.waiting import TIMEOUT
from tests.registry import RegistryServer
from tests.registry.hostile import HostileRegistry, answer

START = '{"type": "record", "name": "Start", "fields": [{"name": "id", "type": "string"}]}'


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


def made(number: int, schema: int) -> Message:
    key = f"k{number % 3}"
    body = AvroSchema(RegisteredSchema(START, "AVRO")).encode({"id": f"{key}-{number}"})
    return Message(write(schema, None) + body, key.encode(), (("type", b"start"),))


def registry(server: RegistryServer) -> str:
    retry = "    retry: {initial: 20ms, max_delay: 50ms}\n"
    return f"{retry}registries: {{main: {{url: '{server.url}', timeout: 2s}}}}"


def registry_hold(one: PipelineFixture) -> str | None:
    return SourceView(one.source, TIMEOUT).reading().holds.get("schema registry")


async def test_an_unreachable_registry_holds_and_an_unknown_schema_dies(tmp_path: Path, server: RegistryServer) -> None:
    known = server.register("orders-value", START)
    server.stop()
    async with running_pipeline(tmp_path, source=registry(server), codec="avro") as one:
        await one.publish(*(made(number, 99 if number == 4 else known) for number in range(9)))
        await one.source.start()
        await one.until(lambda: registry_hold(one), "the hold")
        assert "registry main: nobody answers" in (registry_hold(one) or "")
        await asyncio.sleep(0.3)
        assert sum(one.source.ledger.outcomes.values()) == 0
        server.start()
        await one.settled(9)
        assert registry_hold(one) is None
        assert one.source.ledger.dead_letters == {"decode_error": 1}
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(one.faults.taken).values())
        [dead] = await one.read("orders.dlq", 1)
        assert b"registry main does not have schema 99" in dict(dead.headers)["bridge.detail"]
        # After the schema is known, an unreachable registry has no effect
        server.stop()
        await one.publish(*(made(number, known) for number in range(9, 20)))
        await one.settled(20)


async def test_a_drain_ends_the_wait_and_everything_comes_again(tmp_path: Path, server: RegistryServer) -> None:
    known = server.register("orders-value", START)
    server.stop()
    (tmp_path / "one").mkdir()
    async with running_pipeline(tmp_path, source=registry(server), codec="avro") as one:
        await one.publish(*(made(number, known) for number in range(9)))
        await one.source.start()
        await one.until(lambda: registry_hold(one), "the hold")
    server.start()
    async with running_pipeline(tmp_path, source=registry(server), codec="avro") as two:
        await two.source.start()
        await two.settled(9)


@pytest.mark.parametrize(
    "refused",
    [
        answer({"error_code": 42203, "message": "Invalid format"}, 422),
        answer({"error_code": 40901, "message": "Incompatible"}, 409),
        answer({"schema": '"n"', "references": [{"name": "n", "subject": "s", "version": 1}], "subject": "s", "id": 1}),
        answer({"schema": '{"type": "fixed", "name": "F", "size": 1' + "0" * 400 + "}"}),
        answer({"schema": "{" * 100_000}),
    ],
)
async def test_an_answer_that_cannot_be_used_costs_its_messages_alone(tmp_path: Path, refused: bytes) -> None:
    good = answer({"schema": START, "id": 1})
    hostile = HostileRegistry(lambda path: good if path.startswith("/schemas/ids/1") else refused)
    config = (
        f"    retry: {{initial: 20ms, max_delay: 50ms}}\nregistries: {{main: {{url: '{hostile.url}', timeout: 2s}}}}"
    )
    try:
        async with running_pipeline(tmp_path, source=config, codec="avro") as one:
            await one.publish(*(made(number, 9 if number == 4 else 1) for number in range(9)))
            await one.source.start()
            await one.settled(9)
            assert one.source.ledger.dead_letters == {"decode_error": 1}
            assert sum(len(numbers) for numbers in offsets_by_key(one.faults.taken).values()) == 8
    finally:
        hostile.close()


async def test_a_body_beyond_its_bounds_is_dead_lettered_with_its_own_reason(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source="    limits: {max_values: 10}") as one:
        headers = (("type", b"start"),)
        await one.publish(
            Message(b'{"id": "a"}', b"a", headers), Message(b'{"id": [0,0,0,0,0,0,0,0,0,0]}', b"a", headers)
        )
        await one.source.start()
        await one.settled(2)
        assert one.source.ledger.dead_letters == {"too_many_values": 1}
        [dead] = await one.read("orders.dlq", 1)
        assert dict(dead.headers)["bridge.reason"] == b"too_many_values"
