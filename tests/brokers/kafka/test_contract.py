from __future__ import annotations

import pytest

from tests.brokers.contract import BrokerContract
from tests.brokers.group_contract import GroupContract

pytestmark = pytest.mark.usefixtures("clean")


class TestKafkaBroker(BrokerContract):
    pass


class TestKafkaGroups(GroupContract):
    pass
