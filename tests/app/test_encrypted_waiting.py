"""Early and quarantined messages on a scheduler, as the service sees them encrypted."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import load_config
from bridge.app.connection import attached
from bridge.app.operations.erase import Erasure, condition_of
from bridge.app.serve.daemon import Daemon
from bridge.core.errors import EngineMisconfigured
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.quarantine.operations import QuarantineOperations
from bridge.waiting.operations import WaitingMessage
from tests.kit.daemon import DaemonFixture, headers, running
from tests.kit.waiting import TIMEOUT, eventually

MARKER = "PLAINTEXT-OF-A-PAYLOAD"

FLOWS = """
from durabletask import task


def collect(ctx: task.OrchestrationContext, count):
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("noted")))
    return got
"""

CONFIG = """
sources:
  early: {broker: local, topics: [early], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
  held:
    broker: local
    topics: [held]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
    quarantine: {poll: 50ms}
routes:
  - name: wait
    from: early
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload, on_missing: {wait: 1h}}
  - name: tell
    from: held
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload, on_missing: dead_letter}
"""


@pytest.fixture(autouse=True)
def _keys(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new"), 1):
        (tmp_path / name).write_text(base64.b64encode(bytes([number]) * 32).decode())


def settings(*names: str, active: bool = True) -> str:
    listed = ", ".join(f"{{id: {name}, file: {name}}}" for name in names)
    return f", encryption: {{keys: [{listed}], active: {str(active).lower()}}}" if names else ""


def at_the_service(directory: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted((directory / "host").glob("*")) if each.is_file())


async def publish(it: DaemonFixture, topic: str, id_: str, number: int = 0) -> None:
    payload = {"id": id_, "note": f"{MARKER}-{number}"}
    await it.publish(topic, payload, key=f"{MARKER}-key-{id_}", type="noted", more=f"{MARKER}-header")


def early(it: DaemonFixture) -> EarlyMessageOperations:
    return EarlyMessageOperations(it.daemon.engines["default"])


def quarantine(it: DaemonFixture) -> QuarantineOperations:
    return QuarantineOperations(it.daemon.engines["default"])


async def waiting(it: DaemonFixture, count: int) -> list[WaitingMessage]:
    found: list[WaitingMessage] = []

    async def complete() -> bool:
        found[:] = [*await early(it).list(), *await quarantine(it).list()]
        return len(found) == count

    await eventually(complete, lambda: f"{count} messages: {found}")
    return found


async def result(it: DaemonFixture, id_: str) -> Any:
    state = await it.client.wait_for_orchestration_completion(f"order-{id_}", timeout=TIMEOUT)
    assert state is not None
    return [each["note"] for each in state.get_output()]


async def start(it: DaemonFixture, id_: str, count: int) -> None:
    await it.client.schedule_new_orchestration("collect", input=count, instance_id=f"order-{id_}")


def remote(directory: Path, *names: str, active: bool = True) -> Any:
    return running(directory, CONFIG, FLOWS, "behind a port", settings=settings(*names, active=active))


async def test_without_keys_the_service_sees_the_messages(tmp_path: Path) -> None:
    async with remote(tmp_path) as it:
        await publish(it, "early", "e")
        await publish(it, "held", "h")
        found = await waiting(it, 2)
        assert {each.encryption_key for each in found} == {None}
        seen = at_the_service(tmp_path)
        assert MARKER.encode() in seen
        assert base64.b64encode(b"b" + f"{MARKER}-key-h".encode())[:20] in seen


async def test_the_service_sees_nothing_of_messages_that_wait_and_all_are_delivered(tmp_path: Path) -> None:
    async with remote(tmp_path, "old") as it:
        for number in range(3):
            await publish(it, "early", "e", number)
            await publish(it, "held", "h", number)
        found = await waiting(it, 6)
        assert {each.encryption_key for each in found} == {"old"}
        assert {each.key for each in found if each.key is not None} == {f"{MARKER}-key-h"}
        assert MARKER.encode() not in at_the_service(tmp_path)
        assert base64.b64encode(b"b" + f"{MARKER}-key-h".encode())[:20] not in at_the_service(tmp_path)
        messages = [*await early(it).messages(), *await quarantine(it).messages()]
        assert {dict(message.headers)["more"] for _, message in messages} == {f"{MARKER}-header".encode()}
        for id_ in "eh":
            await start(it, id_, 3)
        await quarantine(it).release("held", f"{MARKER}-key-h")
        assert [await result(it, id_) for id_ in "eh"] == [[f"{MARKER}-{number}" for number in range(3)]] * 2


async def test_an_embedded_engine_has_them_in_its_encrypted_file(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS, settings=settings("old")) as it:
        for number in range(2):
            await publish(it, "early", "e", number)
            await publish(it, "held", "h", number)
        found = await waiting(it, 4)
        assert {each.encryption_key for each in found} == {None}, "the bridge adds nothing to what the engine does"
        files = [each for each in (tmp_path / ".bridge" / "engine").glob("*") if each.is_file()]
        seen = b"".join(each.read_bytes() for each in files)
        assert b"order-e" in seen
        assert MARKER.encode() not in seen
        assert base64.b64encode(b"b" + f"{MARKER}-key-h".encode())[:20] not in seen
        await start(it, "e", 2)
        assert await result(it, "e") == [f"{MARKER}-0", f"{MARKER}-1"]


async def test_dropped_messages_are_dead_lettered_whole(tmp_path: Path) -> None:
    async with remote(tmp_path, "old") as it:
        await publish(it, "early", "e")
        await publish(it, "held", "h")
        await waiting(it, 2)
        await early(it).drop("order-e", [], forget=False)
        await quarantine(it).drop("held", f"{MARKER}-key-h", [], forget=False)
        for topic in ("early.dlq", "held.dlq"):
            [dead_letter] = await it.read(topic, 1)
            assert MARKER.encode() in (dead_letter.body or b"")
            assert (dead_letter.key or b"").startswith(f"{MARKER}-key".encode())
            assert headers(dead_letter)["more"] == f"{MARKER}-header"
        assert MARKER.encode() not in at_the_service(tmp_path)


async def test_messages_keep_their_key_and_new_ones_have_the_new_one(tmp_path: Path) -> None:
    for keys in ((), ("old",), ("new", "old")):
        async with remote(tmp_path, *keys) as it:
            name = keys[0] if keys else "plain"
            await publish(it, "early", name)
            await publish(it, "held", f"h-{name}")
            await waiting(it, 2 * ("plain", "old", "new").index(name) + 2)
    async with remote(tmp_path, "new", "old", active=False) as it:
        await publish(it, "early", "off")
        found = await waiting(it, 7)
        assert sorted(str(each.encryption_key) for each in found) == ["None"] * 3 + ["new"] * 2 + ["old"] * 2
        for name in ("plain", "old", "new", "off"):
            await start(it, name, 1)
            assert await result(it, name) == [f"{MARKER}-0"]


async def test_a_message_whose_key_is_missing_waits_for_it(tmp_path: Path) -> None:
    async with remote(tmp_path, "old") as it:
        await publish(it, "early", "e")
        await waiting(it, 1)
    async with remote(tmp_path, "new") as it:
        with pytest.raises(EngineMisconfigured, match="encrypted with key 'old', which is not there"):
            await early(it).list()
        await start(it, "e", 1)
        # A message of the same instance waits behind it; a message of another instance is delivered.
        await publish(it, "early", "e", 1)
        await start(it, "f", 1)
        await publish(it, "early", "f")
        assert await result(it, "f") == [f"{MARKER}-0"]
    async with remote(tmp_path, "new", "old") as it:
        await early(it).release("order-e")
        assert await result(it, "e") == [f"{MARKER}-0"]


async def test_a_daemon_whose_key_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    async with remote(tmp_path, "old") as it:
        config = tmp_path / "bridge.yaml"
        config.write_text(config.read_text().replace("file: old", "file: gone"))
        daemon = Daemon(load_config([config]))
        with pytest.raises(EngineMisconfigured, match=r"key 'old': .*gone: No such file"):
            await daemon.start()
        await daemon.stop(5.0)
        assert it.daemon.sources


async def test_encrypted_messages_are_found_and_erased(tmp_path: Path) -> None:
    async with remote(tmp_path, "old") as it:
        await publish(it, "early", "e")
        await publish(it, "held", "h")
        await waiting(it, 2)
        condition = condition_of(f"payload.note == '{MARKER}-0'")
        async with attached(load_config([tmp_path / "bridge.yaml"])) as engine:
            found = [each async for each in Erasure(engine, condition, dry_run=False).run(lambda done, total: None)]
        assert sorted((each.kind, each.state) for each in found) == [("early", "erased"), ("quarantined", "erased")]
        await waiting(it, 0)
