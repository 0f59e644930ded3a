"""Listeners of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.brokers.base import Partition


class NullListener:
    """Assignment listener that ignores every change."""

    async def assigned(self, partitions: Sequence[Partition]) -> None:
        pass

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        pass
