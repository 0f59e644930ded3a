"""Messages with a claim check in a pipeline: order, dead letters, an outage of the store, room in memory."""

from __future__ import annotations

import codecs
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from bridge.claims.source import ClaimChecks
from bridge.config.model.claims import ClaimCheckConfig
from bridge.core.message import Message
from bridge.pipeline.flow_control import PAYLOADS
from tests.claims.store import PayloadServer, serving
from tests.kit.pipeline import offsets_by_key, running_pipeline

ROUTES = """
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.key }}-{{ payload.id }}", input: payload}
"""
SIZE = 500_000
TYPE = (("type", b"start"),)


def source_of(server: PayloadServer, claim: str = "header: payload-ref") -> str:
    return f'    claim_check: {{{claim}, allow: ["{server.base}/in/"]}}\n    limits: {{max_in_flight_bytes: 4MiB}}'


def payload(server: PayloadServer, number: int, key: str = "k") -> str:
    body = orjson.dumps({"id": number, "key": key, "fill": "z" * SIZE})
    return server.holds(f"/in/{key}-{number}", body)


def referring(reference: str, key: str | None = None) -> Message:
    headers = (("type", b"start"), ("payload-ref", reference.encode()))
    return Message(b"", None if key is None else key.encode(), headers)


async def test_payloads_are_fetched_in_the_order_of_their_keys(tmp_path: Path) -> None:
    async with serving() as server, running_pipeline(tmp_path, ROUTES, source_of(server)) as it:
        for number in range(12):
            key = "ab"[number % 2]
            await it.publish(referring(payload(server, number, key), key))
        own = orjson.dumps({"id": 12, "key": "a"})
        await it.publish(Message(own, b"a", (("type", b"start"),)))
        await it.source.start()
        await it.settled(13)
        assert offsets_by_key(it.faults.taken) == {"a": [0, 2, 4, 6, 8, 10, 12], "b": [1, 3, 5, 7, 9, 11]}
        assert it.source.ledger.outcomes["executed"] == 13
        assert it.source.decoded.bytes == 0


@pytest.mark.parametrize("form", ["path", "binary", "structured", "text"])
async def test_forms_of_the_reference(tmp_path: Path, form: str) -> None:
    claim = "path: payload.ref" if form == "path" else "attribute: dataref"
    codec = "json" if form == "path" else "cloudevents"
    async with serving() as server, running_pipeline(tmp_path, ROUTES, source_of(server, claim), codec=codec) as it:
        reference = payload(server, 1)
        event = {"specversion": "1.0", "id": "1", "source": "shop", "type": "start", "dataref": reference}
        headers: tuple[tuple[str, bytes], ...] = (("type", b"start"),)
        if form == "path":
            await it.publish(Message(orjson.dumps({"ref": reference}), headers=headers))
        elif form == "binary":
            await it.publish(
                Message(b"", headers=(*headers, *((f"ce_{name}", value.encode()) for name, value in event.items())))
            )
        elif form == "structured":
            await it.publish(Message(orjson.dumps(event), headers=headers))
        else:
            # The data is JSON by its own content type, and an event must not be changed by its data
            server.holds("/in/evil", b'1,"type":"other"')
            event["dataref"] = f"{server.base}/in/evil"
            await it.publish(Message(orjson.dumps(event), headers=headers))
        await it.source.start()
        if form == "text":
            dead = (await it.read("orders.dlq", 1))[0]
            assert dict(dead.headers)["bridge.reason"] == b"claim_damaged"
            return
        await it.settled(1)
        assert [command.instance_id for command in it.faults.taken] == ["order-k-1"]  # type: ignore[union-attr]  # a start
        assert len(str(it.faults.taken[0].input)) > SIZE  # type: ignore[union-attr]  # a start


async def test_references_that_can_never_succeed_are_dead_lettered_as_they_came(tmp_path: Path) -> None:
    async with serving() as server, running_pipeline(tmp_path, ROUTES, source_of(server)) as it:
        large = server.holds("/in/large", b"x" * 2_000_000)
        references = {
            f"{server.base}/secret": b"claim_denied",
            f"{server.base}/in/absent": b"claim_not_found",
            large: b"claim_too_large",
        }
        await it.publish(*(referring(each) for each in references))
        await it.source.start()
        dead = await it.read("orders.dlq", 3)
        found = {dict(each.headers)["payload-ref"].decode(): dict(each.headers)["bridge.reason"] for each in dead}
        assert found == references
        assert {each.body for each in dead} == {b""}
        assert it.faults.taken == []
        assert "/secret" not in server.asked


async def test_an_event_that_nests_too_deep_ends_alone(tmp_path: Path) -> None:
    async with (
        serving() as server,
        running_pipeline(tmp_path, ROUTES, source_of(server, "attribute: dataref"), codec="cloudevents") as it,
    ):
        event = {"specversion": "1.0", "id": "1", "source": "shop", "type": "start", "dataref": payload(server, 1)}
        for depth in (99, 300, 1000, 1500):
            nested = b',"deep":' + b"[" * depth + b"]" * depth + b"}"
            await it.publish(Message(orjson.dumps(event)[:-1] + nested, b"k", TYPE))
        await it.publish(Message(codecs.BOM_UTF8 + orjson.dumps(event), b"k", TYPE))
        await it.source.start()
        await it.settled(5)
        assert it.source.ledger.outcomes["executed"] == 1
        assert it.source.ledger.bugs == 0


async def test_the_source_is_held_while_the_store_does_not_answer(tmp_path: Path) -> None:
    async with serving() as server, running_pipeline(tmp_path, ROUTES, source_of(server)) as it:
        server.is_away = True
        await it.publish(*(referring(payload(server, number), "k") for number in range(3)))
        await it.source.start()
        await it.until(lambda: PAYLOADS in it.source.gate.pause_reasons, "the source is held")
        server.is_away = False
        await it.settled(3)
        assert offsets_by_key(it.faults.taken) == {"k": [0, 1, 2]}
        assert it.source.ledger.dead_letters == {}


class BrokenClaims(ClaimChecks):
    """Claim checks with a bug."""

    async def resolve(self, message: Message) -> Message:
        raise ZeroDivisionError


async def test_a_bug_ends_its_message_and_no_worker(tmp_path: Path) -> None:
    async with serving() as server, running_pipeline(tmp_path, ROUTES, source_of(server)) as it:
        allowed = ClaimCheckConfig.model_validate({"allow": [f"{server.base}/in/"], "header": "payload-ref"})
        it.source.rules.replace(replace(it.source.rules.current, claims=BrokenClaims(allowed, SIZE)))
        await it.publish(referring(payload(server, 1), "k"), Message(b'{"id": 2, "key": "k"}', b"k", TYPE))
        await it.source.start()
        await it.settled(2)
        assert it.source.ledger.outcomes["executed"] == 1
        assert it.source.ledger.dead_letters == {"bug": 1}
