"""Starts at a time or after a delay from a Kafka record."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.app.test_schedules import FLOWS, check_no_times, check_times, config
from tests.kit.daemon import running


async def test_times_delays_and_what_is_none(tmp_path: Path, bootstrap: str) -> None:
    broker = f'{{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}'
    for number, check in enumerate((check_times, check_no_times)):
        topic = f"times-{uuid.uuid4().hex[:8]}"
        directory = tmp_path / str(number)
        directory.mkdir()
        async with running(directory, config(topic), FLOWS, broker=broker) as it:
            await check(it, topic)
