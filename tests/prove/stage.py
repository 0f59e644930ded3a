"""Stage of a proof: a broker, a durable engine in a process of its own, and consumers that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Protocol

from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationQuery
from durabletask.grpc_options import GrpcWorkerResiliencyOptions
from durabletask.worker import TaskHubGrpcWorker

from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.worker.setup import stop_worker
from bridge.workflow import DataConverter, message_aware
from tests.kit.waiting import TIMEOUT, eventually
from tests.prove.collecting import END, collect, collect_plain
from tests.prove.score import Score, score

Variant = Literal["bridge", "hand-written"]

KEYS = 16
ROOT = Path(__file__).parents[2]

CONFIG = """
engine: {{type: scheduler, endpoint: "http://{engine}"}}
workflows: {{external: [collect]}}
routes:
  - name: start
    from: orders
    when: payload.number == 0
    schedule: {{orchestration: collect, instance_id: "order-{{{{ payload.key }}}}"}}
  - name: item
    from: orders
    raise_event: {{instance_id: "order-{{{{ payload.key }}}}", name: item, on_missing: {on_missing}}}
ops: {{http: {{port: 0}}, log: {{level: error}}}}
"""


class Broker(Protocol):
    """Broker of one stage.

    parts: partitions or sessions that get an unreadable message. on_missing: setting for events whose instance does not
    exist.
    """

    parts: Sequence[int]
    on_missing: str

    def config(self) -> str:
        """Return the bridge's `brokers` and its source `orders`, as YAML."""
        ...

    def hand_written(self, engine: str) -> list[str]:
        """Return module and arguments of the manually written consumer. engine: its address."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, key: str, body: bytes, *, early: bool = False) -> None:
        """Send a message. early: on a separate topic without order relative to the others; only Kafka has one."""
        ...

    async def send_unreadable(self, part: int) -> None:
        """Send a message that no client library can decode."""
        ...

    async def dead_letters(self) -> int: ...


class Engine:
    """`bridge engine` process on one port; its file outlives the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ready = directory / "engine.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        with (self._directory / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "bridge", "engine", "--listen", self.address,
                    "--path", str(self._directory / "hubs"), "--ready-file", str(self._ready),
                ],
                stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        await eventually(lambda: self._ready.exists() and self._ready.read_bytes(), "the engine")
        if self.address.endswith(":0"):
            self.address = json.loads(self._ready.read_bytes())["address"].removeprefix("http://")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class ProofFixture:
    """One source, one engine, and consumers of one variant."""

    def __init__(self, directory: Path, broker: Broker, variant: Variant, engine: Engine) -> None:
        self.variant: Variant = variant
        self.engine = engine
        self.broker = broker
        self.sent: dict[str, int] = {}
        self.bad = 0
        self._directory = directory
        self._members: list[subprocess.Popen[bytes]] = []
        self._frozen: set[int] = set()
        self._client: AsyncTaskHubGrpcClient
        self._keeper: asyncio.Task[None] | None = None

    # -- consumers

    def join(self) -> subprocess.Popen[bytes]:
        """Start another consumer."""
        if self.variant == "bridge":
            config = self._directory / "bridge.yaml"
            config.write_text(self._config())
            command = [sys.executable, "-m", "bridge", "serve", "-c", str(config)]
        else:
            command = [sys.executable, "-m", *self.broker.hand_written(self.engine.address)]
        with (self._directory / "consumers.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self._members.append(process)
        return process

    def _config(self) -> str:
        return CONFIG.format(engine=self.engine.address, on_missing=self.broker.on_missing) + self.broker.config()

    async def kill(self, member: int = 0) -> None:
        """Kill a consumer with SIGKILL and start another one."""
        process = self._members.pop(member)
        process.kill()
        await asyncio.to_thread(process.wait)
        self.join()

    async def roll(self) -> None:
        """Stop and replace each consumer in turn with SIGTERM, as the rollout of a new version does."""
        for process in list(self._members):
            self._members.remove(process)
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
            self.join()

    def freeze(self, member: int = 0) -> None:
        os.kill(self._members[member].pid, signal.SIGSTOP)

    def thaw(self, member: int = 0) -> None:
        os.kill(self._members[member].pid, signal.SIGCONT)

    async def _restart_the_dead(self) -> None:
        """Restart consumers that end by themselves, as a supervisor does."""
        while True:
            await asyncio.sleep(0.5)
            for process in [each for each in self._members if each.poll() is not None]:
                self._members.remove(process)
                self.join()

    # -- messages

    async def load(self, seconds: float, rate: int = 60) -> None:
        """Send `seconds * rate` numbered messages over the keys; the first message of a key starts its
        orchestration."""
        began = time.monotonic()
        for turn in range(int(seconds * rate)):
            await self.send(f"k{turn % KEYS}")
            await asyncio.sleep(max(0.0, began + turn / rate - time.monotonic()))

    async def send(self, key: str, number: int | None = None, *, early: bool = False) -> None:
        """Send the next message of the key, or the one with this number. early: see `Broker.send`."""
        if number is None:
            number = self.sent.get(key, 0)
        self.sent[key] = self.sent.get(key, 0) + 1
        body = json.dumps({"key": key, "number": number}).encode()
        await self.broker.send(key, body, early=early)

    async def send_bad(self, key: str) -> None:
        """Send a message that can never succeed."""
        self.bad += 1
        await self.broker.send(key, b'{"key": "' + key.encode())

    async def send_unreadable(self, part: int) -> None:
        """Send a message that no client library can decode."""
        self.bad += 1
        await self.broker.send_unreadable(part)

    async def settled(self, quiet: float) -> int:
        """Wait until every message had its effect, or no new effect comes for `quiet` seconds.

        Returns the number of effects.
        """
        best, moved = -1, time.monotonic()
        while True:
            with contextlib.suppress(Exception):  # the engine may be restarting
                count = await self._effects()
                if count > best:
                    best, moved = count, time.monotonic()
                if count >= sum(self.sent.values()):
                    return count
            if time.monotonic() - moved > quiet:
                return best
            await asyncio.sleep(0.3)

    async def _effects(self) -> int:
        query = OrchestrationQuery(instance_id_prefix="order-", fetch_inputs_and_outputs=True)
        states = await self._client.get_all_orchestration_states(query)
        return sum(int(json.loads(state.serialized_custom_status or "1")) for state in states)

    async def score(self, quiet: float) -> Score:
        """End the collectors and score the numbers that they recorded."""
        await self.settled(quiet)
        await asyncio.sleep(2.0)  # repeated deliveries come late
        seen: dict[str, list[int]] = {}
        for key in self.sent:
            if await self._client.get_orchestration_state(f"order-{key}") is None:
                continue
            await self._client.raise_orchestration_event(f"order-{key}", END)
            state = await self._client.wait_for_orchestration_completion(f"order-{key}", timeout=TIMEOUT)
            assert state is not None
            seen[key] = state.get_output()
        missing = max(0, self.bad - await self.broker.dead_letters())
        return score(self.sent, seen) + Score(sent=self.bad, lost=missing)

    async def open(self) -> None:
        await self.broker.open()
        self._client = AsyncTaskHubGrpcClient(host_address=self.engine.address, logger=quiet_logger("prove.client"))
        self._keeper = asyncio.create_task(self._restart_the_dead())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for process in self._members:
            process.kill()
            process.wait()
        await self.broker.close()
        await self._client.close()


@asynccontextmanager
async def stage(directory: Path, broker: Broker, variant: Variant) -> AsyncIterator[ProofFixture]:
    """Yield a stage with an engine and a worker for the collectors, but without a consumer."""
    engine = Engine(directory)
    await engine.start()
    worker = TaskHubGrpcWorker(
        host_address=engine.address,
        data_converter=DataConverter(),
        logger=quiet_logger("prove.worker"),
        resiliency_options=GrpcWorkerResiliencyOptions(reconnect_backoff_cap_seconds=1.0),
    )
    worker.add_orchestrator(message_aware(collect))
    worker.add_orchestrator(collect_plain)
    worker.use_work_item_filters()
    worker.start()
    it = ProofFixture(directory, broker, variant, engine)
    try:
        await it.open()
        yield it
    finally:
        await it.close()
        engine.close()
        await stop_worker(worker, 10)
