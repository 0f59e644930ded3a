"""Autoscaling numbers of the API: they rise with the work of an engine and fall with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.core.system_names import JOB_STEP
from bridge.engines.embedded.host_rules import BridgeRules
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.workload import Workload, workload_of
from bridge.ops.access import new_token, token_line
from bridge.sqlite_engine.options import HostRules
from tests.engines.sidecar import Sidecar
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually

THREADS = 4
ORDERS = 40
TURNS = 100
"""Turns in progress at once, by default."""
TOKEN = new_token()
FLOWS = """
import time
from pathlib import Path

OPEN = Path(__file__).with_name("open")

def charge(ctx, order):
    while not OPEN.exists():
        time.sleep(0.02)

def order_saga(ctx, order):
    yield ctx.call_activity(charge, input=order)

ORCHESTRATORS = [order_saga]
ACTIVITIES = [charge]
"""
CONFIG = """
engine: ENGINE
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}"}}
workflows: [scaled_flows]
ops: {http: {port: 0, access: {tokens: tokens}}}
"""


def project(directory: Path, engine: str, worker: str = "") -> Path:
    """Project with a token of a reader. engine, worker: settings of the engine and of its worker."""
    (directory / "scaled_flows.py").write_text(FLOWS)
    (directory / "tokens").write_text(token_line(TOKEN, "keda", "reader", False) + "\n")
    settings = f"{{{engine}, worker: {{threads: {THREADS}{worker}}}}}"
    (directory / "bridge.yaml").write_text(CONFIG.replace("ENGINE", settings))
    (directory / "orders.jsonl").write_text("".join(f'{{"body": {{"id": "{n}"}}}}\n' for n in range(ORDERS)))
    return directory


async def publish(directory: Path) -> None:
    await asyncio.to_thread(bridge, "publish", "orders", "--jsonl", "orders.jsonl", cwd=directory)


async def asked(daemon: DaemonProcess, place: str = "scaling", token: str | None = TOKEN) -> tuple[int, Any]:
    """Status and answer of a request."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{daemon.url}/api/v1/{place}") as response,
    ):
        return response.status, await response.json(content_type=None)


async def reaches(daemon: DaemonProcess, number: float, place: str = "scaling") -> dict[str, Any]:
    """Wait for a number of workers; return the work by kind."""

    async def found() -> Any:
        status, answer = await asked(daemon, place)
        assert status == 200, answer
        # Where all work shares the threads of the SDK's worker, batches of the bridge's entities wait there too
        spare = 1 / THREADS if number and place == "scaling:process" else 0.0
        return answer if number <= answer["workers"] <= number + spare else None

    answer = await eventually(found, f"{place} of {number}")
    [engine] = answer["engines"]
    kinds: dict[str, Any] = engine["kinds"]
    return kinds


@pytest.mark.parametrize("processes", [0, 1])
async def test_the_number_of_an_embedded_engine_rises_and_falls(tmp_path: Path, processes: int) -> None:
    project(tmp_path, "type: embedded", f", processes: {processes}")
    with DaemonProcess(tmp_path) as daemon:
        for token in (None, new_token()):
            assert (await asked(daemon, token=token))[0] == 401
        await reaches(daemon, 0.0)
        await publish(tmp_path)
        kinds = await reaches(daemon, ORDERS / THREADS)
        work = kinds["activities"]
        assert (work["waiting"] + work["held"], work["capacity"]) == (ORDERS, THREADS)
        await reaches(daemon, ORDERS / THREADS, "scaling:process")
        (tmp_path / "open").touch()
        for place in ("scaling", "scaling:process"):
            await reaches(daemon, 0.0, place)


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_every_process_counts_the_work_of_an_engine_on_a_port(tmp_path: Path, dispatch: str) -> None:
    with DaemonProcess(tmp_path, "--listen", "127.0.0.1:0", "--path", "hubs", command="engine") as engine:
        project(tmp_path, f'type: scheduler, endpoint: "{engine.url}", dispatch: {dispatch}')
        with DaemonProcess(tmp_path, "--no-worker", log="intake.log") as intake:
            await publish(tmp_path)
            kinds = await reaches(intake, ORDERS / (TURNS if dispatch == "direct" else THREADS))
            assert kinds["orchestrations"]["waiting"] == ORDERS, "no worker is there"
            status, problem = await asked(intake, "scaling:process")
            assert (status, problem["reason"]) == (404, "unknown_name")
            with DaemonProcess(tmp_path, command="worker", log="worker.log") as worker:
                for daemon, place in ((intake, "scaling"), (worker, "scaling"), (worker, "scaling:process")):
                    await reaches(daemon, ORDERS / THREADS, place)
                (tmp_path / "open").touch()
                for daemon, place in ((intake, "scaling"), (worker, "scaling"), (worker, "scaling:process")):
                    await reaches(daemon, 0.0, place)


async def test_work_that_no_worker_of_this_configuration_takes_does_not_count(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "--listen", "127.0.0.1:0", "--path", "hubs", command="engine") as port:
        engine = SchedulerEngine("default", SchedulerEngineConfig(type="scheduler", endpoint=port.url))
        await engine.start()
        try:
            for name, version in (("own", None), ("own", "2"), ("JavaSaga", None), (JOB_STEP, None)):
                await engine.client.schedule_new_orchestration(name, version=version)
            assert await workload_of(engine.client, ["javasaga"]) == Workload(
                {"orchestrations": 2}, {"orchestrations": 0}
            )
            found = await workload_of(engine.client, ["javasaga"], ["2"])
            assert found == Workload({"orchestrations": 1}, {"orchestrations": 0})
        finally:
            await engine.stop()


class _Silent(BridgeRules):
    """Rules of an engine that tells no numbers, as the Durable Task Scheduler."""

    workload = HostRules.workload


async def test_an_engine_that_tells_no_numbers_refuses_the_first_and_leaves_the_second(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, _Silent())
    sidecar.start()
    try:
        project(tmp_path, f'type: scheduler, endpoint: "{sidecar.endpoint}"')
        with DaemonProcess(tmp_path) as daemon:
            await publish(tmp_path)
            await reaches(daemon, ORDERS / THREADS, "scaling:process")
            status, problem = await asked(daemon)
            assert (status, problem["reason"]) == (404, "unknown_name")
            assert "GET scaling:process" in problem["detail"]
            (tmp_path / "open").touch()
            await reaches(daemon, 0.0, "scaling:process")
    finally:
        sidecar.close()
