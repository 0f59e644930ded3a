"""Payloads that the condition of an erasure cannot read: they are named, and neither erased nor passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.operations.erase import Erasure, condition_of
from bridge.core.message import Message
from tests.app.test_quarantine import QuarantineFixture, setup

pytestmark = pytest.mark.long


async def erase(it: QuarantineFixture, where: str) -> list[tuple[str, str, str, str]]:
    erasure = Erasure(it.daemon.engines["default"], condition_of(where), dry_run=False)
    return [(each.kind, each.id, each.state, each.detail) async for each in erasure.run()]


async def finished(it: QuarantineFixture, id_: str, payload: Any) -> None:
    await it.client.schedule_new_orchestration("collect", input=payload, instance_id=id_)
    await it.client.wait_for_orchestration_completion(id_, timeout=60)


async def test_a_text_with_a_nul(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await finished(it, "whole", {"note": "for Ann"})
        await finished(it, "cut", {"note": "for\0Ann"})
        await finished(it, "other", {"count": 1})
        body = json.dumps({"id": "a", "number": 1, "note": "for\0Ann"}).encode()
        await it.publish(Message(body, b"a", (("type", b"noted"),)))
        await it.settled(quarantined=1)
        await it.waiting(1)
        found = await erase(it, "payload.note.contains('Ann')")
        assert sorted(each[:3] for each in found) == [
            ("instance", "cut", "left"), ("instance", "whole", "erased"), ("quarantined", "a", "left"),
        ]  # fmt: skip
        assert all("NUL" in detail for _, _, state, detail in found if state == "left")


async def test_a_payload_that_is_too_large_for_the_condition(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await finished(it, "large", {"lines": [{"name": "Ann"}] * 20_000})
        await finished(it, "small", {"lines": [{"name": "Ann"}]})
        found = await erase(it, "payload.lines.all(a, payload.lines.all(b, a.name != b.name + '.'))")
        assert {each[1:3] for each in found} == {("large", "left"), ("small", "erased")}
