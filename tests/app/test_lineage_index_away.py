"""Index of a remote engine that is away for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
