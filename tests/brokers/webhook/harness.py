"""Webhooks for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.brokers.webhook import WebhookBroker
from bridge.config.model.webhook import WebhookBrokerConfig
from tests.kit.waiting import eventually
from tests.kit.webhook import WebhookReceiver

QUICK = {"attempts": 4, "first": "1ms", "max": "2ms"}
"""Settings of `retry` without long pauses."""


class WebhookHarness:
    """Receiver, and brokers that publish to it."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        self.receiver = receiver
        self._brokers: list[WebhookBroker] = []

    async def broker(self, **config: Any) -> WebhookBroker:
        """Start another broker. config: settings of `WebhookBrokerConfig`."""
        given = {"type": "webhook", "url": self.receiver.url, "retry": QUICK, "max_body": "2MiB"} | config
        broker = WebhookBroker("hooks", WebhookBrokerConfig.model_validate(given), lambda field, value: Path(value))
        self._brokers.append(broker)
        await broker.start()
        return broker

    async def arrived(self, count: int) -> Sequence[bytes]:
        await eventually(lambda: len(self.receiver.accepted) >= count, f"{count} accepted requests")
        return [each.body for each in self.receiver.accepted]

    async def stop(self) -> None:
        for broker in self._brokers:
            await broker.stop()
