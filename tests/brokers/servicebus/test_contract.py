from __future__ import annotations

from tests.brokers.contract import BrokerContract
from tests.brokers.reading_contract import ReadingContract


class TestServiceBusBroker(BrokerContract):
    pass


class TestServiceBusReading(ReadingContract):
    pass
