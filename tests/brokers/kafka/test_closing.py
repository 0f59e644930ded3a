"""Subscriptions that are closed at a critical moment."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.brokers.consumer import Assignments
from tests.brokers.kafka.test_unreadable import Bytes, harness, options
from tests.kit.waiting import TIMEOUT

__all__ = ["harness"]


async def test_closing_while_the_client_answers_ends(harness: Bytes) -> None:
    """The cancellation comes when the answer has arrived but has not been taken."""
    await harness.create_topic("orders", 1)
    subscription: Any = await (await harness.broker()).subscribe(options(), Assignments())
    ask = subscription._consumer.getmany
    asked, answer = asyncio.Event(), asyncio.Event()

    async def late(**given: Any) -> Any:
        found = await ask(**given)
        asked.set()
        await answer.wait()
        return found

    subscription._consumer.getmany = late
    await asked.wait()
    closing = asyncio.create_task(subscription.close())
    answer.set()
    await asyncio.wait_for(closing, TIMEOUT / 3)
