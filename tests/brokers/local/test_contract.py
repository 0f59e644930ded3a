from __future__ import annotations

from tests.brokers.contract import BrokerContract
from tests.brokers.group_contract import GroupContract
from tests.brokers.position_contract import PositionContract
from tests.brokers.publisher_contract import PublisherContract
from tests.brokers.reading_contract import ReadingContract


class TestLocalBroker(BrokerContract):
    pass


class TestLocalGroups(GroupContract):
    pass


class TestLocalReading(ReadingContract):
    pass


class TestLocalPositions(PositionContract):
    pass


class TestLocalPublishing(PublisherContract):
    pass
