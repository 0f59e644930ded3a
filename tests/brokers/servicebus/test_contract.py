from __future__ import annotations

from tests.brokers.contract import BrokerContract


class TestServiceBusBroker(BrokerContract):
    pass
