"""Verification of the test server with the JavaScript SDK, which has an AMQP stack of its own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servicebus.process import ServerProcess
from tests.servicebus.server import (
    CorrelationFilter,
    QueueConfig,
    Rule,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
)

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]

HERE = Path(__file__).parent / "javascript"
CACHE = HERE.parents[2] / ".cache" / "servicebus-javascript"
SCRIPT = "capabilities.mjs"
NAMES = re.findall(r'^  async "([^"]+)"\(\)', (HERE / SCRIPT).read_text(), re.MULTILINE)

QUEUES = (
    *(QueueConfig(f"queue-{number}") for number in range(20)),
    QueueConfig("three-times", max_delivery_count=3),
    QueueConfig("short-lock", lock_duration=1.2),
    QueueConfig("no-duplicates", duplicate_detection=60),
    QueueConfig("expires-to-dead-letters", dead_letter_on_expiration=True),
    QueueConfig("sessions", requires_session=True),
    QueueConfig("empty-sessions", requires_session=True),
)
TOPIC = TopicConfig(
    "events",
    (
        SubscriptionConfig("all"),
        SubscriptionConfig("eu", rules=(Rule("eu", CorrelationFilter({"Label": "order"}, {"region": "eu"})),)),
        SubscriptionConfig("large", rules=(Rule("large", SqlFilter("total > 100")),)),
    ),
)
RULED = TopicConfig("ruled-events", (SubscriptionConfig("ruled"),))


def _installed() -> Path:
    """Return the directory with the SDK, installed once for each lock file."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = CACHE / "package-lock.json", HERE / "package-lock.json"
        if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes() or not (CACHE / "node_modules").exists():
            npm = shutil.which("npm")
            assert npm is not None, "this proof needs Node 20 or newer and npm"
            shutil.copy(HERE / "package.json", CACHE)
            shutil.copy(wanted, CACHE)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
            if done.returncode:
                stamp.unlink()
                pytest.fail(f"npm could not install the SDK:\n{done.stderr[-2000:]}")
    return CACHE


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    """Problem of each capability; None: success."""
    place = _installed()
    shutil.copy(HERE / SCRIPT, place)
    with ServerProcess(QUEUES, (TOPIC, RULED)) as server:
        environment = os.environ | {"SERVICEBUS_CONNECTION": server.connection_string}
        done = subprocess.run(
            ["node", SCRIPT], cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        counters = server.counters()
    assert done.returncode == 0, done.stderr
    assert counters["crashes"] == []
    assert counters["malformed"] == []
    return {line["name"]: line["problem"] for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_capability(outcomes: dict[str, str | None], name: str) -> None:
    assert outcomes[name] is None, outcomes[name]


def test_all_were_tried(outcomes: dict[str, str | None]) -> None:
    assert list(outcomes) == NAMES
    assert len(NAMES) >= 20
