"""The embedded engine: hosted in the daemon's process, attached to over a socket from every other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.grpc_options import GrpcWorkerResiliencyOptions
from durabletask.serialization import DataConverter
from durabletask.worker import TaskHubGrpcWorker

from bridge.config.engines import EmbeddedEngineConfig
from bridge.engines.deadline import DeadlineInterceptor, OnStreams
from bridge.engines.embedded.endpoint import SOCKET, Address, Endpoint
from bridge.engines.embedded.memory import MemoryBackend
from bridge.engines.inprocess import AioChannel, Channel
from bridge.engines.registry import Workflows
from bridge.engines.remote import channel_options, probe
from bridge.engines.worker import concurrency, quiet_logger, register
from bridge.errors import EngineUnavailable

RECONNECT_SECONDS = 1.0


class EmbeddedEngine:
    """An engine for one machine. For now it keeps everything in memory.

    directory: of the lock and the socket. host: True in the one process that runs the engine, False to attach to it.
    """

    durable = False

    def __init__(self, name: str, config: EmbeddedEngineConfig, directory: Path, host: bool) -> None:
        self.name = name
        self._config = config
        self._directory = directory
        self._host = host
        self._backend: MemoryBackend | None = None
        self._endpoint: Endpoint | None = None
        self._address: Address | None = None
        self._channel: AioChannel | None = None
        self._client: AsyncTaskHubGrpcClient | None = None
        self._workers: list[Channel] = []

    @property
    def description(self) -> str:
        kind = "in memory, NOT DURABLE: everything is lost at exit"
        return f"{kind}; {'hosts' if self._host else 'attaches to'} {self._directory / SOCKET}"

    async def start(self) -> None:
        """Raises: EngineUnavailable (another process hosts it), EngineMisconfigured (the directory cannot be used)."""
        if self._client is not None:
            return
        if self._host:
            self._start_host()
        else:
            self._attach()

    def _start_host(self) -> None:
        backend = MemoryBackend(self._config.retention)
        endpoint = Endpoint(self._directory, backend)
        try:
            endpoint.open()
        except BaseException:
            backend.close()
            raise
        self._backend, self._endpoint = backend, endpoint
        self._channel = AioChannel(backend, timeout=self._config.timeout, max_request=self._config.max_request)
        self._client = AsyncTaskHubGrpcClient(channel=self._channel, logger=quiet_logger(f"{self.name}.client"))

    def _attach(self) -> None:
        self._address = Address(self._directory)
        deadline = DeadlineInterceptor(self._config.timeout)
        self._client = AsyncTaskHubGrpcClient(
            host_address=self._address.target,
            logger=quiet_logger(f"{self.name}.client"),
            interceptors=[deadline, OnStreams(deadline)],
            channel_options=channel_options(self._config.max_request, RECONNECT_SECONDS, proxy=False),
        )

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        for channel in self._workers:
            channel.close()
        self._workers.clear()
        if self._backend is not None:
            # Waits end first, so that the server's threads do.
            self._backend.close()
            self._backend = None
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
            self._endpoint = None
        if self._address is not None:
            self._address.close()
            self._address = None

    async def probe(self) -> None:
        """Raises: EngineUnavailable when no daemon hosts the engine; it says what to do."""
        if self._host:
            if self._client is None:
                raise EngineUnavailable(f"engine {self.name!r} is not started")
            return
        try:
            await probe(self.client, f"engine {self.name!r} at {self._directory / SOCKET}")
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"no daemon hosts engine {self.name!r} at {self._directory / SOCKET}; start `bridge serve` with this "
                "configuration, or check the engine's `path`"
            ) from error

    @property
    def client(self) -> AsyncTaskHubGrpcClient:
        if self._client is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        return self._client

    def worker(self, workflows: Workflows, data_converter: DataConverter | None = None) -> TaskHubGrpcWorker:
        # A dead host breaks the stream at once, so silence means only that there is nothing to do.
        options: dict[str, Any] = {
            "logger": quiet_logger(f"{self.name}.worker"),
            "concurrency_options": concurrency(self._config.worker),
            "data_converter": data_converter,
            "resiliency_options": GrpcWorkerResiliencyOptions(
                silent_disconnect_timeout_seconds=0, reconnect_backoff_cap_seconds=RECONNECT_SECONDS
            ),
        }
        if self._backend is not None:
            channel = Channel(self._backend, timeout=self._config.timeout)
            self._workers.append(channel)
            return register(TaskHubGrpcWorker(channel=channel, **options), workflows)
        if self._address is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        return register(
            TaskHubGrpcWorker(
                host_address=self._address.target,
                channel_options=channel_options(None, RECONNECT_SECONDS, proxy=False),
                **options,
            ),
            workflows,
        )
