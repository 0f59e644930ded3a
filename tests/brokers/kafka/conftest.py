from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.brokers.kafka.harness import KafkaHarness
from tests.conftest import KAFKA_SUBSTITUTE
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.node import Node
from tests.kafka.server import ThreadedServer
from tests.kafka.shared import shared_broker


@pytest.fixture(scope="session")
def bootstrap(pytestconfig: pytest.Config) -> Iterator[str]:
    """Address of the broker in KAFKA_BOOTSTRAP, of a real test broker, or of the small server where there is no
    Java."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    try:
        if os.environ.get("KAFKA_TEST_SERVER"):
            raise KafkaMissing("KAFKA_TEST_SERVER is set")
        java()
        classpath()
    except KafkaMissing as missing:
        server = ThreadedServer()
        _note_substitute(pytestconfig, str(missing))
        yield server.bootstrap
        server.stop()
        return
    with shared_broker() as address:
        yield address


def _note_substitute(config: pytest.Config, why: str) -> None:
    config.stash[KAFKA_SUBSTITUTE] = why
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output["kafka_substitute"] = why


@pytest.fixture
def real_kafka() -> None:
    """Skip the test where no real broker can run: only that one has disks to damage."""
    try:
        java()
        classpath()
    except KafkaMissing as missing:
        pytest.skip(f"{missing}: damage on a disk needs a real broker")


@pytest.fixture
def node(real_kafka: None, tmp_path: Path) -> Iterator[Node]:
    """Real broker of this test alone, whose disk the test may damage."""
    node = Node(tmp_path / "node")
    node.start()
    yield node
    node.kill()


@pytest.fixture
async def harness(bootstrap: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(bootstrap)
    yield harness
    await harness.stop()


@pytest.fixture
async def clean(harness: KafkaHarness) -> KafkaHarness:
    """Harness on a cluster without the topics and groups of the contract suites."""
    await harness.clear()
    return harness
