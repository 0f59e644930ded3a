"""Engine for tests: the SDK's client and worker over the virtual backend."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.grpc_options import GrpcWorkerResiliencyOptions
from durabletask.serialization import DataConverter

from bridge.engines.base import RunListener
from bridge.engines.client import EngineClient
from bridge.engines.embedded.inprocess import AioChannel, InProcessChannel
from bridge.engines.message_sealer import MessageSealer
from bridge.engines.remote.grpc_channel import BEFORE
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.worker.setup import MonitoredWorker
from bridge.engines.workflows import Workflows
from bridge.testing.sdk_internals import VirtualBackend

TIMEOUT = 30.0
"""Deadline of a call, in seconds on the clock."""


class VirtualEngine:
    """Replacement for every configured engine in tests. Its data ends with the test."""

    durable = False
    notifies_instance_started = False
    messages = MessageSealer()
    faults: Mapping[str, int] = MappingProxyType({})
    confirms_event_delivery = False
    keeps_lineage = False
    lineage = None
    description = "in memory, with virtual time, for tests"

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = VirtualBackend()
        self._channel: AioChannel | None = None
        self._client: EngineClient | None = None
        self._workers: list[InProcessChannel] = []

    def has_no_early_messages(self, entity_id: str) -> bool:
        """Always False: the entity must be asked."""
        return False

    async def start(self) -> None:
        self._channel = AioChannel(self.backend, timeout=TIMEOUT, before=BEFORE)
        sdk = AsyncTaskHubGrpcClient(channel=self._channel, logger=quiet_logger(f"{self.name}.client"))
        self._client = EngineClient(sdk)

    async def stop(self) -> None:
        self.backend.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        for channel in self._workers:
            channel.close()
        self._workers.clear()

    async def probe(self) -> None:
        """Do nothing: this engine is always available."""

    @property
    def client(self) -> EngineClient:
        if self._client is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        return self._client

    def watch_runs(self, listener: RunListener) -> bool:
        self.backend.run_listeners.append(listener)
        return True

    def worker(
        self,
        workflows: Workflows,
        data_converter: DataConverter | None = None,
        monitor: CompatibilityMonitor | None = None,
    ) -> ContainedWorker:
        channel = InProcessChannel(self.backend, timeout=TIMEOUT)
        self._workers.append(channel)
        worker = MonitoredWorker(
            channel=channel,
            logger=quiet_logger(f"{self.name}.worker"),
            data_converter=data_converter,
            resiliency_options=GrpcWorkerResiliencyOptions(silent_disconnect_timeout_seconds=0),
        )
        return worker.add_workflows(workflows, monitor)
