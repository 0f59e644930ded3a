"""A message that waits longer than a lock may last leaves the queue and waits on the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.check.configuration import check
from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.states import Outcome
from tests.kit.pipeline import message
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

CONFIG = """
engine: {{type: embedded}}
brokers: {{bus: {{type: servicebus, connection_string: "{connection_string}"}}}}
sources:
  orders:
    broker: bus
    queue: orders
    codec: json
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
    retry: {{initial: 600ms, max_delay: 600ms, in_memory: 1h}}
    servicebus: {{max_hold: 1s}}
{more}
routes:
  - name: paid
    from: orders
    match: {{type: start}}
    raise_event: {{instance_id: "order-{{{{ payload.id }}}}", name: paid, on_missing: {on_missing}}}
workflows: [flows]
ops: {{http: {{port: 0}}}}
"""
FLOW = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("paid"))
"""


@pytest.fixture
async def server() -> ServiceBusServer:  # type: ignore[misc]  # an async generator, as fixtures are
    queues = (QueueConfig("orders", lock_duration=5, max_delivery_count=2), QueueConfig("letters"))
    async with ServiceBusServer(ServerConfig(queues)) as server:
        yield server
    assert server.counters.crashes == []


def write(directory: Path, connection_string: str, more: str, on_missing: str = "retry") -> Path:
    (directory / "flows.py").write_text(FLOW)
    path = directory / "bridge.yaml"
    path.write_text(CONFIG.format(connection_string=connection_string, more=more, on_missing=on_missing))
    return path


async def test_a_retry_goes_on_on_the_engine(tmp_path: Path, server: ServiceBusServer) -> None:
    path = write(tmp_path, server.connection_string, "    dead_letter: letters")
    daemon = Daemon(load_config([path]))
    await daemon.start()
    try:
        await daemon.brokers["bus"].publish("orders", [message("start", "1")])
        ledger = daemon.sources[0].ledger
        await eventually(lambda: ledger.outcomes[Outcome.QUARANTINED])
        contents = server.queue("orders").contents()
        assert (contents.active, contents.locked) == (0, 0)
        client = daemon.engines["default"].client
        await client.schedule_new_orchestration("order", instance_id="order-1")
        state = await client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status.name == "COMPLETED"
        assert server.counters.dead_letters == []
    finally:
        await daemon.stop(5.0)


@pytest.mark.parametrize(
    ("more", "on_missing"), [("", "{wait: 1h}"), ("    quarantine: {}", "retry")], ids=["early messages", "quarantine"]
)
def test_what_waits_needs_a_place_for_its_dead_letter(tmp_path: Path, more: str, on_missing: str) -> None:
    connection = "Endpoint=sb://shop.example.com/;SharedAccessKeyName=bridge;SharedAccessKey=c2VjcmV0"
    wrong = check([write(tmp_path, connection, more, on_missing)]).problems
    assert any("needs `dead_letter`, a queue or topic" in problem.what for problem in wrong)
    right = check([write(tmp_path, connection, f"{more}\n    dead_letter: letters", on_missing)]).problems
    assert [problem for problem in right if problem.severity == "error"] == []
