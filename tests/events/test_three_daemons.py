"""Events of facts that three daemons share: one id for each fact, so that receivers keep one event."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.engines.sidecar import Sidecar
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.webhook import WebhookReceiver

CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}", credential: none}}
brokers:
  local: {{type: local}}
  hooks: {{type: webhook, url: "{receiver}", retry: {{attempts: 1}}}}
targets: {{ops: {{broker: hooks, source: shop}}}}
events: {{target: ops, kinds: [dead_letter.new_cause, job.finished, job.stopped]}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
routes: [{{name: nothing, from: orders, match: {{type: nothing}}, ignore: {{reason: a test}}}}]
ops: {{http: {{port: 0}}, dead_letters: {{interval: 1s}}}}
"""


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as made:
        yield made


@pytest.fixture
def daemons(tmp_path: Path, receiver: WebhookReceiver) -> Iterator[list[DaemonProcess]]:
    sidecar = Sidecar(tmp_path / "engine")
    sidecar.start()
    (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=sidecar.endpoint, receiver=receiver.url))
    with ExitStack() as stack:
        stack.callback(sidecar.close)
        yield [stack.enter_context(DaemonProcess(tmp_path, log=f"{number}.log")) for number in range(3)]


@pytest.mark.timeout(240)
async def test_each_daemon_sends_a_shared_fact_under_one_id(
    tmp_path: Path, receiver: WebhookReceiver, daemons: list[DaemonProcess]
) -> None:
    def facts(kind: str) -> Counter[tuple[str, str]]:
        return Counter((each["source"], each["id"]) for each in receiver.events(kind))

    async def sent(kind: str) -> None:
        await asyncio.to_thread(daemons[0].wait, lambda: facts(kind).total() >= len(daemons), f"events {kind}")

    for number in range(2):
        await asyncio.to_thread(bridge, "publish", "orders", "--data", json.dumps({"number": number}), cwd=tmp_path)
    await sent("new_cause")
    # A receiver that drops repeats by source and id has one event of the cause, and one of the job
    assert list(facts("new_cause").values()) == [len(daemons)]
    replay = ("dlq", "drop", "orders", "--all", "--reason", "a test", "--yes")
    await asyncio.to_thread(bridge, *replay, cwd=tmp_path)
    await sent("job.finished")
    assert list(facts("job.finished").values()) == [len(daemons)]
    assert len({json.dumps(each["data"], sort_keys=True) for each in receiver.events("job.finished")}) == 1
    for each in daemons:
        each.stop()
