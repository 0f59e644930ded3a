"""Verification of the test server with the Go SDK, which has an AMQP stack of its own."""

from __future__ import annotations

import fcntl
import hashlib
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

pytestmark = [pytest.mark.prove, pytest.mark.timeout(400)]

HERE = Path(__file__).parent / "go"
CACHE = HERE.parents[2] / ".cache" / "servicebus-go"
NAMES = re.findall(r'^\t\{"([^"]+)", func\(ctx', (HERE / "program.go").read_text(), re.MULTILINE)

QUEUES = (
    *(QueueConfig(f"queue-{number}") for number in range(20)),
    QueueConfig("three-times", max_delivery_count=3),
    QueueConfig("short-lock", lock_duration=1.2),
    QueueConfig("no-duplicates", duplicate_detection=60),
    QueueConfig("expires-to-dead-letters", dead_letter_on_expiration=True),
    *(QueueConfig(name, requires_session=True) for name in ("sessions", "more-sessions", "listed-sessions")),
)
TOPIC = TopicConfig(
    "events",
    (
        SubscriptionConfig("all"),
        SubscriptionConfig("eu", rules=(Rule("eu", CorrelationFilter({"Label": "order"}, {"region": "eu"})),)),
        SubscriptionConfig("large", rules=(Rule("large", SqlFilter("total > 100")),)),
    ),
)


def _built() -> Path:
    """Return the program, built once for each version of its sources."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = sorted(HERE.iterdir())
        program = CACHE / hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]
        if not program.exists():
            go = shutil.which("go")
            assert go is not None, "this proof needs Go 1.25 or newer"
            command = [go, "build", "-mod=readonly", "-o", str(program), "."]
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"the program could not be built:\n{done.stderr[-2000:]}"
    return program


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    """Problem of each capability; None: success."""
    program = _built()
    with ServerProcess(QUEUES, (TOPIC,)) as server:
        environment = os.environ | {"SERVICEBUS_CONNECTION": server.connection_string}
        done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False, timeout=240)
        counters = server.counters()
    assert done.returncode == 0, done.stderr
    assert counters["crashes"] == []
    assert counters["malformed"] == []
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line["problem"] for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_capability(outcomes: dict[str, str | None], name: str) -> None:
    assert outcomes[name] is None, outcomes[name]


def test_all_were_tried(outcomes: dict[str, str | None]) -> None:
    assert list(outcomes) == NAMES
    assert len(NAMES) >= 20
