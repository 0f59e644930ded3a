"""Jobs on the embedded engine: items per second, and the history of a job with a million of them.

The kind of the job does nothing, so the figures are the cost of the job itself. JOB_ITEMS sets the number of items.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import structlog

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.states import JobState
from bridge.core.system_names import job_instance_id
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobRequest
from bridge.jobs.store import JobStore

ITEMS = 1_000_000
CONFIG = "engine: {type: embedded}\nbrokers: {local: {type: local}}\nsources: {}\nroutes: []\nops: {http: {port: 0}}\n"
_DONE = ItemResult(ItemOutcome.SUCCEEDED)


class Nothing:
    """Kind whose items succeed at once."""

    name = "nothing"
    item_space = "things"
    keeps_order = False

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        return dict.fromkeys(items, _DONE)


def run() -> dict[str, float]:
    """Figures of one job. Their names contain the units."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        return asyncio.run(_job(Path(directory), int(os.environ.get("JOB_ITEMS", ITEMS))))


async def _job(directory: Path, count: int) -> dict[str, float]:
    (directory / "bridge.yaml").write_text(CONFIG)
    daemon = Daemon(load_config([directory / "bridge.yaml"]), kinds=[Nothing()])
    await daemon.start()
    try:
        return await _figures(daemon, count)
    finally:
        await daemon.stop(30.0)


async def _figures(daemon: Daemon, count: int) -> dict[str, float]:
    jobs, client = JobStore(daemon.engines["default"]), daemon.engines["default"].client

    async def items() -> AsyncIterator[str]:
        for number in range(count):
            yield f"order-{number:08}"

    began = time.perf_counter()
    submitted = await jobs.submit(JobRequest("nothing"), items(), Nothing.item_space)
    assert submitted is not None
    job = submitted[0]
    selected = time.perf_counter()
    events = largest = 0
    while (record := await jobs.record(job)).state is not JobState.DONE:
        assert sum(record.counts.values()) == record.selected
        history = await client.get_protocol_history(job_instance_id(job))
        largest = max(largest, sum(event.ByteSize() for event in history))
        events = max(events, len(history))
        await asyncio.sleep(0.2)
    done = time.perf_counter()
    assert record.counts["succeeded"] == count
    listed = 0
    async for _ in jobs.items(job, {"failed"}):
        listed += 1
    return {
        "items": float(count),
        "selected_per_second": count / (selected - began),
        "worked_per_second": count / (done - selected),
        "largest_history_kb": largest / 1000,
        "largest_history_events": float(events),
        "show_failed_seconds": time.perf_counter() - done,
    }
