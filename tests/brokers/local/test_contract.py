from __future__ import annotations

from tests.brokers.contract import BrokerContract
from tests.brokers.group_contract import GroupContract


class TestLocalBroker(BrokerContract):
    pass


class TestLocalGroups(GroupContract):
    pass
