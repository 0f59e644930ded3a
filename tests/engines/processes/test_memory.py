"""Work items and results that are too large for a worker process with a memory limit."""

from __future__ import annotations

import pytest
from durabletask.client import OrchestrationStatus

from tests.engines.processes.conftest import Start

LIMIT = {"memory_limit": "256MiB"}
MEGABYTE = 1_000_000


@pytest.mark.parametrize("where", ["calls", "entity_makes"])
async def test_a_result_that_cannot_be_sent_fails_its_work(start: Start, where: str) -> None:
    """The text fits into the memory, and its message does not."""
    async with start(1, worker=LIMIT) as harness:
        pids = harness.pids()
        for size in (60, 80):
            given = ["makes", size * MEGABYTE] if where == "calls" else size * MEGABYTE
            state = await harness.finished(await harness.start(where, given))
            assert state.runtime_status is OrchestrationStatus.FAILED
            assert state.failure_details is not None
            if where == "calls":
                assert "does not fit into a message" in state.failure_details.message
        assert await harness.output(await harness.start("chain", 1)) == 5
        assert harness.pids() == pids


async def test_an_item_that_does_not_fit_into_the_memory_is_given_up(start: Start) -> None:
    """No thread runs the item: the process ends while it arrives."""
    async with start(worker={"memory_limit": "128MiB", "threads": 1}, sessions=0, max_lost_workers=1) as harness:
        culprit = await harness.start("accumulates", [15, 8 * MEGABYTE])
        await harness.until(culprit, OrchestrationStatus.SUSPENDED)
        await harness.all_run()
        assert await harness.output(await harness.start("chain", 1)) == 5
