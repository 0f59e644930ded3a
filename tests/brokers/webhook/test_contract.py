from __future__ import annotations

from tests.brokers.publisher_contract import PublisherContract


class TestWebhook(PublisherContract):
    pass
