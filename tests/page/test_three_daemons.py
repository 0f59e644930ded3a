"""The page of one of three daemons in a group: sums of all of them, also while one is frozen."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses
from playwright.async_api import Browser, expect

from bridge.app.operations.client import FIND_SECONDS
from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess, run_bridge
from tests.page.browser import opened, violations

pytestmark = pytest.mark.asyncio(loop_scope="session")
PARTITIONS = 6
CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 60s, rebalance_timeout: 8s, create_topics: true}}
sources:
  orders:
    broker: kafka
    topics: [orders]
    group: orders
    codec: json
    no_match: ignore
    retry: {{in_memory: 1h, max_delay: 1s}}
routes:
  - name: pay
    from: orders
    when: has(payload.paid)
    raise_event: {{instance_id: "order-{{{{ payload.paid }}}}", name: paid}}
ops: {{http: {{port: 0}}}}
"""


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[tuple[DaemonProcess, ...]]:
    """Three daemons with two partitions each. One message of each partition is ignored, the next one retries."""
    server = ThreadedServer()
    with ExitStack() as stack:
        stack.callback(server.stop)
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        admin.create_topics([NewTopic("orders", PARTITIONS, 1)])["orders"].result(30)
        (tmp_path / "engine").mkdir()
        listening = ("--listen", "127.0.0.1:0", "--path", "hubs")
        engine = stack.enter_context(DaemonProcess(tmp_path / "engine", *listening, command="engine"))
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=engine.url, kafka=server.bootstrap))
        found = tuple(stack.enter_context(DaemonProcess(tmp_path, log=f"{number}.log")) for number in range(3))
        for each in found:
            each.wait(lambda each=each: len(_partitions(each)) == PARTITIONS / 3, "partitions")  # type: ignore[misc]  # mypy cannot infer it
        producer = Producer({"bootstrap.servers": server.bootstrap})
        for number in range(PARTITIONS):
            producer.produce("orders", b"{}", f"k{number}", partition=number)
            producer.produce("orders", b'{"paid": "none"}', f"k{number}", partition=number)
        assert producer.flush(30) == 0
        found[0].wait(lambda: sum(each.settled() for each in found) == PARTITIONS, "all settled")
        yield found
        for each in found:
            if each.runs:
                each.signal(signal.SIGCONT)
                each.stop()


def _partitions(daemon: DaemonProcess) -> list[str]:
    return re.findall(r'partition="(\d+)"', " ".join(daemon.metrics("bridge_uncommitted_records")))


@pytest.mark.timeout(240)
async def test_the_page_adds_up_all_daemons_and_says_which_one_is_silent(
    browser: Browser, daemons: tuple[DaemonProcess, ...], tmp_path: Path
) -> None:
    frozen, other, own = daemons
    of_frozen, of_other = await asyncio.to_thread(lambda: [_partitions(each) for each in (frozen, other)])
    async with opened(browser) as page, opened(browser) as message:
        await page.goto(own.url)
        await expect(page.locator("#head")).to_contain_text("3 daemons")
        received = page.locator("#sums td b")
        await expect(received).to_have_text(str(2 * PARTITIONS))
        await expect(page.locator("#sums .good", has_text="ok")).to_be_visible()
        rows = page.locator("#daemons tbody tr")
        await expect(rows).to_have_count(3)
        await expect(rows.filter(has_text="(this one)")).to_contain_text(f"/{own.pid}")

        await message.goto(f"{own.url}/messages/orders%2F{of_other[0]}%401")
        await expect(message.get_by_text("retrying")).to_be_visible()
        await expect(message.get_by_text("Partial")).to_have_count(0)

        frozen.signal(signal.SIGSTOP)
        await expect(page.locator("#head")).to_contain_text("partial: 2 of 3 daemons answered")
        await expect(received).to_have_text(str(2 * PARTITIONS * 2 // 3))
        await expect(page.locator("#needs")).to_contain_text(f"process {frozen.pid} is frozen by a signal")
        await expect(page.locator("#needs")).to_contain_text(f"kill -CONT {frozen.pid}")
        await expect(rows.filter(has_text="no answer")).to_contain_text(f"/{frozen.pid}")
        status = ("status", "--url", own.url, "-o", "json")
        found = json.loads((await asyncio.to_thread(run_bridge, *status, cwd=tmp_path)).stdout)
        assert (found["asked"], found["answered"]) == (3, 2), "the command line asks one address for all daemons, too"
        assert await violations(page) == []
        began = time.monotonic()
        await page.reload()
        assert time.monotonic() - began < FIND_SECONDS, "a page does not wait for a frozen daemon"

        await message.goto(f"{own.url}/messages/orders%2F{of_frozen[0]}%401")
        await expect(message.get_by_text("Partial: 1 daemon does not answer")).to_be_visible()

        frozen.signal(signal.SIGCONT)
        await expect(page.locator("#head")).to_contain_text("3 daemons")
        await expect(received).to_have_text(str(2 * PARTITIONS))
        await message.reload()
        await expect(message.get_by_text("retrying")).to_be_visible()

        other.kill()
        await expect(page.locator("#head")).to_contain_text("partial: 2 of 3 daemons answered")
        await expect(rows.filter(has_text=f"/{other.pid}")).to_contain_text("has ended")
