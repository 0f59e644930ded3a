"""Order per key, retries included, while keys run in parallel."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from bridge.core.commands import Command
from bridge.core.errors import InstanceNotFound
from tests.kit.pipeline import message, offsets_by_key, running_pipeline

QUICK = "    retry: {initial: 1ms, max_delay: 4ms}"


async def test_first_effects_of_a_key_happen_in_order_though_half_of_all_attempts_fail(tmp_path: Path) -> None:
    rng = random.Random(3)
    keys, per_key = 20, 30
    running: set[str] = set()
    most = 0

    async def flaky(command: Command) -> None:
        nonlocal most
        key = command.instance_id.split("-")[1]  # type: ignore[union-attr]  # schedules only
        assert key not in running, "two of one key at work at once"
        running.add(key)
        most = max(most, len(running))
        try:
            await asyncio.sleep(rng.random() * 0.002)
            if rng.random() < 0.5:
                raise InstanceNotFound("injected")
        finally:
            running.discard(key)

    async with running_pipeline(tmp_path, source=QUICK) as it:
        it.faults.before = flaky
        sent = [(number, key) for number in range(per_key) for key in range(keys)]
        await it.publish(*(message("start", f"k{key}-{number}", f"k{key}") for number, key in sent))
        await it.source.start()
        await it.settled(keys * per_key)
        assert it.source.ledger.outcomes["executed"] == keys * per_key
        assert it.source.ledger.retries > 100
        order = offsets_by_key(it.faults.taken)
        assert len(order) == keys
        assert all(numbers == list(range(per_key)) for numbers in order.values())
        assert most > 2, "keys must run side by side, above the two partitions"


async def test_a_key_that_fails_holds_only_itself(tmp_path: Path) -> None:
    async def poison(command: Command) -> None:
        if command.instance_id.startswith("order-bad"):  # type: ignore[union-attr]  # schedules only
            raise InstanceNotFound("injected")

    async with running_pipeline(tmp_path, source="    retry: {initial: 50ms, in_memory: 1m}") as it:
        it.faults.before = poison
        await it.publish(message("start", "bad-0", "bad"), message("start", "bad-1", "bad"))
        good = [(f"good{number % 9}", number) for number in range(500)]
        await it.publish(*(message("start", f"{key}-{number}", key) for key, number in good))
        await it.source.start()
        await it.settled(500)
        assert it.source.ledger.outcomes["executed"] == 500
        assert it.source.ledger.in_flight == 2
        it.faults.before = None
        await it.settled(502)
        assert offsets_by_key(it.faults.taken)["bad"] == [0, 1]


async def test_ordering_by_an_expression(tmp_path: Path) -> None:
    seen: list[str] = []

    async def slow_first(command: Command) -> None:
        seen.append(command.instance_id)  # type: ignore[union-attr]  # schedules only
        if len(seen) == 1:
            await asyncio.sleep(0.05)

    async with running_pipeline(tmp_path, source='    ordering: "{{ payload.customer }}"') as it:
        it.faults.before = slow_first
        await it.publish(*(message("start", f"a-{number}", str(number), customer="same") for number in range(4)))
        await it.source.start()
        await it.settled(4)
        assert len(seen) == 4
        first_by_partition = offsets_by_key(it.faults.taken)["a"]
        assert sorted(first_by_partition) == [0, 1, 2, 3]
        assert [f"order-a-{number}" for number in first_by_partition] == seen, "one at a time"
