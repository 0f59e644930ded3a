from __future__ import annotations

import pytest

from tests.brokers.kafka.conftest import bootstrap, harness

__all__ = ["bootstrap", "harness"]


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.long)
