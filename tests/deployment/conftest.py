from __future__ import annotations

from tests.brokers.kafka.conftest import bootstrap, harness

__all__ = ["bootstrap", "harness"]
