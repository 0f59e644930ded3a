from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.brokers.webhook.harness import WebhookHarness
from tests.kit.webhook import WebhookReceiver


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
async def harness(receiver: WebhookReceiver) -> AsyncIterator[WebhookHarness]:
    harness = WebhookHarness(receiver)
    yield harness
    await harness.stop()


@pytest.fixture
def publisher(harness: WebhookHarness) -> WebhookHarness:
    return harness
