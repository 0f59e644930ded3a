from __future__ import annotations

import pytest

from tests.brokers.contract import BrokerContract
from tests.brokers.group_contract import GroupContract
from tests.brokers.position_contract import PositionContract
from tests.brokers.reading_contract import ReadingContract

pytestmark = pytest.mark.usefixtures("clean")


class TestKafkaBroker(BrokerContract):
    pass


class TestKafkaGroups(GroupContract):
    pass


class TestKafkaReading(ReadingContract):
    pass


class TestKafkaPositions(PositionContract):
    pass
