"""Index of a remote engine that is away for a while, and of one with keys."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from durabletask.client import EntityQuery

from bridge.core.system_names import LINEAGE_INDEX
from tests.app.test_lineage_index import indexed, own
from tests.kit.waiting import TIMEOUT


async def test_an_engine_that_is_away_gets_the_rows_later_and_the_buffer_is_bounded(tmp_path: Path) -> None:
    async with indexed(tmp_path, "number: 2, pause: 1h, buffer: 100") as it:
        await it.send("created", "o-1", "o1")
        host = it.it.host
        assert host is not None
        await host.stop()
        await it.index.write()
        assert (it.index.buffered, it.index.events["dropped"]) == (2, 0)
        for number in range(60):
            it.index.published(f"event-{number}", "order-x")
            it.index.published(f"again-{number}", "order-x")
        assert (it.index.buffered, it.index.events["dropped"]) == (100, 22)
        await it.index.write()
        assert it.index.buffered == 100
        await host.start()
        async with asyncio.timeout(TIMEOUT):
            while it.index.buffered:
                await it.index.write()
                await asyncio.sleep(0.02)
        assert it.index.events["written"] == 100
        assert (await it.indexed(own("o-1"))).instances


async def test_records_are_encrypted_where_the_engine_has_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(base64.b64encode(bytes(32)).decode())
    keys = ", encryption: {keys: [{id: k, file: key}]}"
    async with indexed(tmp_path, settings=keys) as it:
        await it.send("gone", "secret-1", "e1")
        answer = await it.outcome(own("secret-1"), "dead_lettered")
        assert (answer["message_id"], answer["route"]) == (f"/shop {own('secret-1')}", "gone")
        query = EntityQuery(f"@{LINEAGE_INDEX}@", include_state=True)
        states = [each.get_state() or "" for each in await it.it.client.get_all_entities(query)]
    assert any("sealed" in each for each in states)
    assert not any("secret-1" in each or "no such instance" in each for each in states)
