"""Messages with a claim check that come back from an engine: their payloads are fetched then."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bridge.app.operations.table import BY_NAME
from bridge.core.errors import InvalidCommand
from bridge.core.message import Message
from bridge.ops.access import ANONYMOUS
from tests.app import test_quarantine as quarantine
from tests.app import test_replay as replay

pytestmark = pytest.mark.long


def config_of(text: str, directory: Path) -> str:
    """Configuration whose messages are CloudEvents, with payloads in files of a directory."""
    directory.mkdir()
    claim = f'    claim_check: {{allow: ["file://{directory}/"]}}\n    limits: {{max_payload: 4KiB}}\n'
    text = text.replace("codec: json", "codec: cloudevents").replace("    limits: {dead_letter_limit: 4}\n", "")
    return text.replace("    attributes: {type: \"headers['type']\"}\n", claim)


def referring(directory: Path, number: int) -> Message:
    event = {"specversion": "1.0", "id": str(number), "source": "shop", "type": "noted"}
    return Message(json.dumps(event | {"dataref": f"file://{directory}/{number}"}).encode(), b"a")


def keep(directory: Path, number: int) -> None:
    (directory / str(number)).write_text(json.dumps({"id": "a", "number": number}))


async def test_messages_of_a_released_key(tmp_path: Path) -> None:
    payloads = tmp_path / "payloads"
    async with quarantine.setup(tmp_path, config_of(quarantine.CONFIG, payloads)) as it:
        keep(payloads, 1)
        await it.start("a", 2)
        await it.publish(*(referring(payloads, number) for number in range(2)))
        await it.settled(quarantined=2)
        assert [each.reason for each in await it.waiting(2)] == ["claim_not_found", "follows"]
        keep(payloads, 0)
        await it.quarantine.release("orders", "a")
        assert await it.result("a") == [0, 1]


async def test_replayed_dead_letters(tmp_path: Path) -> None:
    payloads = tmp_path / "payloads"
    async with replay.setup(tmp_path, config_of(replay.CONFIG, payloads)) as it:
        await it.publish(*(referring(payloads, number) for number in range(2)))
        await it.settled(dead_lettered=2)
        await it.start("a", 2)
        for number in range(2):
            keep(payloads, number)
        items = await it.ended(await it.replay(replay.by_origin(await it.dead_letters())))
        assert {each.status for each in items} == {"succeeded"}, items
        assert await it.result("a") == [0, 1]


@pytest.mark.parametrize("given", [{}, {"dry_run": True}], ids=["edit", "dry-run"])
async def test_an_edit_that_a_replay_would_not_use_is_refused(tmp_path: Path, given: dict[str, bool]) -> None:
    payloads = tmp_path / "payloads"
    async with replay.setup(tmp_path, config_of(replay.CONFIG, payloads)) as it:
        await it.publish(referring(payloads, 0))
        await it.settled(dead_lettered=1)
        [(dead, _)] = await it.dead_letters()
        [route] = [each for each in it.daemon.routes if each.path == BY_NAME["dlq.edit"].path]
        edit = {"id": dead.id, "text": '{"specversion": "1.0", "data": {"id": "a"}}', **given}
        with pytest.raises(InvalidCommand, match="the payload of this dead letter lies elsewhere"):
            await route.answer(edit, dataclasses.replace(ANONYMOUS, role="operator"), None)
        assert await it.states() == {"open": 1}
