from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.brokers.local.harness import LocalHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[LocalHarness]:
    harness = LocalHarness(tmp_path)
    yield harness
    await harness.stop()


@pytest.fixture
def publisher(harness: LocalHarness) -> LocalHarness:
    return harness
