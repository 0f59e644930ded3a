from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.brokers.kafka.harness import KafkaHarness
from tests.kafka.shared import shared_broker


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """A real broker: the one that KAFKA_BOOTSTRAP names, or one of our own."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    with shared_broker() as address:
        yield address


@pytest.fixture
async def harness(bootstrap: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(bootstrap)
    yield harness
    await harness.stop()


@pytest.fixture
async def clean(harness: KafkaHarness) -> KafkaHarness:
    """The harness on a cluster without topics and groups, for suites that choose their names themselves."""
    await harness.clear()
    return harness
