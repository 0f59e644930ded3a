"""The local broker: a durable log with consumer groups in one SQLite file, for the processes of one machine."""

from bridge.brokers.local.broker import LocalBroker

__all__ = ["LocalBroker"]
