"""Several processes store early messages for, start and notify the same instances of one engine, over its socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from tests.early_messages.child import EVENTS
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.long

FLOWS = """
from bridge.workflow import wait_for_message
from durabletask import task


def collect(ctx: task.OrchestrationContext, count):
    got = []
    while len(got) < count:
        received = yield from wait_for_message(ctx, "paid")
        got.append(received.data)
    return got
"""

CONFIG = """
engine: {type: embedded, path: engine, dispatch: DISPATCH}
workflows: [crowd_flows]
brokers: {local: {type: local}}
ops: {http: {port: 0}}
"""

PROCESSES, INSTANCES = 3, 40


@pytest.mark.timeout(180)
@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_every_event_comes_once_and_in_the_order_of_its_sender(tmp_path: Path, dispatch: str) -> None:
    (tmp_path / "crowd_flows.py").write_text(FLOWS)
    config = tmp_path / "bridge.yaml"
    config.write_text(CONFIG.replace("DISPATCH", dispatch))
    daemon = Daemon(load_config([config]))
    await daemon.start()
    try:
        children = [
            ModuleProcess("tests.early_messages.child", tmp_path / "engine", number, PROCESSES, INSTANCES)
            for number in range(PROCESSES)
        ]
        assert [await child.ended() for child in children] == [0] * PROCESSES
        for child in children:
            child.end()
        client = daemon.engines["default"].client
        for instance in range(INSTANCES):
            state = await client.wait_for_orchestration_completion(f"order-{instance}", timeout=TIMEOUT)
            assert state is not None
            got = state.get_output()
            for number in range(PROCESSES):
                mine = [event for sender, event in got if sender == number]
                assert mine == list(range(EVENTS)), f"order-{instance}: {got}"
        events = daemon.own.waiting_entities["default"].events
        assert events["stored"] > 0
        assert events["delivered"] == events["stored"]
    finally:
        await daemon.stop(20.0)
