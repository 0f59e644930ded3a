"""Engine for the Azure Durable Task Scheduler, its emulator, or any sidecar with the Durable Task protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import grpc.aio
from durabletask.azuremanaged.worker import DurableTaskSchedulerWorker
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.serialization import DataConverter

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.config.model.payloads import BlobStoreConfig
from bridge.core.errors import EngineMisconfigured
from bridge.engines.azure_access import Credentials, create_credentials, credential_kind
from bridge.engines.base import RunListener
from bridge.engines.client import EngineClient
from bridge.engines.embedded.remote.worker import RemoteWorker
from bridge.engines.keyrings import Keys, no_keys
from bridge.engines.lineage_index import LineageIndex, LineageOptions
from bridge.engines.message_sealer import MessageSealer
from bridge.engines.payloads.engine_payloads import EnginePayloadStore
from bridge.engines.payloads.large_payloads import ClientConverter
from bridge.engines.remote.grpc_channel import (
    RECONNECT_SECONDS,
    CallHeaders,
    channel_options,
    worker_channel,
    worker_options,
)
from bridge.engines.remote.remote_channel import AioCallHeaders, RemoteChannel
from bridge.engines.remote.remote_limits import ACKNOWLEDGEMENT, TOTAL, ResponseLimits, WorkItemFlow
from bridge.engines.sdk_internals import header_interceptor, task_hub_interceptor
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.items import EngineGreeting
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.worker.setup import MonitoredWorker, concurrency, threads
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.protocol.payloads import PART
from bridge.system.package import install_extra
from bridge.system.tasks import cancelled
from bridge.system.tls import TlsProblem, load_client

if TYPE_CHECKING:
    from bridge.engines.blob_payloads import BlobPayloadStore

BACKOFF_SECONDS = 30.0
"""Longest pause between two attempts of a worker to open its stream."""

_PORTS = {"http": 80, "grpc": 80, "https": 443, "grpcs": 443}


def parse_endpoint(endpoint: str) -> tuple[str, bool]:
    """Parse an endpoint into `host:port`, and True for TLS. An endpoint without a scheme uses TLS, as in the SDK.

    Raises: ValueError.
    """
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if parts.scheme not in _PORTS or not parts.hostname or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError(
            f"{endpoint!r} is not an endpoint; write an address like https://name.region.durabletask.io or http://localhost:8080"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or _PORTS[parts.scheme]}", parts.scheme in ("https", "grpcs")


class _Worker(MonitoredWorker, DurableTaskSchedulerWorker):
    """Scheduler's worker with a compatibility monitor."""


class SchedulerEngine:
    """Remote engine. Durability is its own responsibility; acknowledged work counts as durable."""

    durable = True
    notifies_instance_started = False
    faults: Mapping[str, int] = MappingProxyType({})
    confirms_event_delivery = False

    def __init__(
        self,
        name: str,
        config: SchedulerEngineConfig,
        keys: Keys = no_keys,
        *,
        intake: bool = False,
        lineage: LineageOptions | None = None,
    ) -> None:
        """Create the engine without connecting.

        keys: encrypt waiting messages.
        intake: read the keys at the start instead of on first use.
        lineage: settings of the lineage index; None: there is none, because each row is a billed action.
        Raises: ValueError when the endpoint is invalid.
        """
        self.name = name
        self.messages = MessageSealer(keys)
        self.lineage = None if lineage is None else LineageIndex(lineage, self.messages)
        self._intake = intake
        self._config = config
        self._host_address, self._secure = parse_endpoint(config.endpoint)
        self._credentials: Credentials | None = None
        self._has_learned = False
        self._client: EngineClient | None = None
        self._store: BlobPayloadStore | EnginePayloadStore | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._certificates: Any = None
        """Channel credentials with configured certificates, which the SDK cannot set itself."""
        self._channel: RemoteChannel | None = None
        self._channels: list[Any] = []
        """Channels of the workers, which the SDK does not close."""

    @property
    def description(self) -> str:
        identity = credential_kind(self._config, self._secure)
        with_what = "a token" if self._config.token is not None else f"credential {identity}"
        transport = "TLS" if self._secure else "no TLS"
        return f"scheduler at {self._host_address} ({transport}), task hub {self._config.task_hub!r}, {with_what}"

    keeps_lineage = False

    def has_no_early_messages(self, entity_id: str) -> bool:
        """Return False: a remote engine must be asked."""
        return False

    async def start(self) -> None:
        """Create the client without connecting. The probe and the first call detect an unreachable engine.

        Raises: EngineMisconfigured when the chosen credential cannot be created, or a certificate or key cannot be
        used.
        """
        if self._client is not None:
            return
        self._certificates = self._load_certificates()
        if self._intake:
            await asyncio.to_thread(self.messages.load)
        try:
            self._credentials = create_credentials(self._config, self._secure)
        except ValueError as error:
            raise EngineMisconfigured(f"engine {self.name!r}: {self._config.credential}: {error}") from error
        self._store = await asyncio.to_thread(self._open_store)
        credential = None if self._credentials is None else self._credentials.asynchronous
        limits = ResponseLimits(self.name, self._config.max_answer, self._config.timeout)
        interceptors: list[Any] = []
        if self._config.token is not None:
            interceptors.append(header_interceptor(self._authorization(), asynchronous=True))
        interceptors.append(task_hub_interceptor(credential, self._config.task_hub, asynchronous=True))
        self._channel = RemoteChannel(self._connect, self._config.timeout, AioCallHeaders(interceptors), limits)
        self._client = EngineClient(
            AsyncTaskHubGrpcClient(
                channel=self._channel,
                logger=quiet_logger(f"{self.name}.client"),
                data_converter=ClientConverter(),
            ),
            self._store,
        )
        if self._intake and not isinstance(self._store, EnginePayloadStore):
            from bridge.engines.blob_payloads import sweep

            self._sweep = asyncio.create_task(sweep(self.name, self._store, self._client))
        if self.lineage is not None:
            self.lineage.start(self._client)

    def _connect(self) -> Any:
        """Connection of the client, as a channel of grpc.aio."""
        options = channel_options(self._config.max_request, RECONNECT_SECONDS, True, self._config.max_answer)
        if not self._secure:
            return grpc.aio.insecure_channel(self._host_address, options.to_grpc_options())
        return grpc.aio.secure_channel(self._host_address, self._tls(), options.to_grpc_options())

    def _tls(self) -> Any:
        return self._certificates or grpc.ssl_channel_credentials()

    def _open_store(self) -> BlobPayloadStore | EnginePayloadStore:
        """Store of large payloads. Without a setting it only reads. Raises: EngineMisconfigured."""
        config = self._config.payloads
        if config is None or not isinstance(config.store, BlobStoreConfig):
            options = worker_options(ACKNOWLEDGEMENT + PART, RECONNECT_SECONDS)
            return EnginePayloadStore(
                lambda: worker_channel(self._host_address, options, self._tls() if self._secure else None),
                CallHeaders(self._interceptors()),
                *(() if config is None else (config.above, config.max)),
            )
        try:
            from bridge.engines.blob_payloads import BlobPayloadStore
        except ImportError as error:
            raise EngineMisconfigured(
                f"engine {self.name!r}: `payloads` in blob storage need a library: {install_extra('blob')}"
            ) from error
        try:
            return BlobPayloadStore(config.store, config.above, config.max)
        except ValueError as error:
            raise EngineMisconfigured(
                f"engine {self.name!r}: payloads: the account cannot be used ({type(error).__name__}); check `store`"
            ) from None

    def _interceptors(self, worker_id: str | None = None) -> list[Any]:
        """Interceptors of blocking calls, the last of which names the task hub. worker_id: of a worker."""
        credential = None if self._credentials is None else self._credentials.synchronous
        hub = task_hub_interceptor(credential, self._config.task_hub, worker_id, asynchronous=False)
        if self._config.token is None:
            return [hub]
        return [header_interceptor(self._authorization(), asynchronous=False), hub]

    def _load_certificates(self) -> Any:
        """Channel credentials with the configured certificates; None without. Raises: EngineMisconfigured."""
        tls = self._config.tls
        if tls is None:
            return None
        files = (None if file is None else Path(file) for file in (tls.ca, tls.certificate, tls.key))
        try:
            found = load_client(*files)
        except TlsProblem as problem:
            raise EngineMisconfigured(f"engine {self.name!r}: {problem}") from None
        return grpc.ssl_channel_credentials(found.ca, found.key, found.certificate)

    def _authorization(self) -> list[tuple[str, str]]:
        assert self._config.token is not None
        return [("authorization", f"Bearer {self._config.token.get_secret_value()}")]

    async def stop(self) -> None:
        if self._sweep is not None:
            await cancelled(self._sweep)
            self._sweep = None
        if self.lineage is not None:
            await self.lineage.stop()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()
        store, self._store = self._store, None
        if store is not None:
            store.close()
        held, self._credentials = self._credentials, None
        if held is not None:
            await held.close()

    async def probe(self) -> None:
        """Check that the engine answers; learn its capabilities when it answers first. Raises: EngineError."""
        await self.client.probe(f"engine {self.name!r} at {self._host_address}")
        if not self._has_learned:
            await self.client.learn()
            self._has_learned = True

    @property
    def client(self) -> EngineClient:
        if self._client is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        return self._client

    def watch_runs(self, listener: RunListener) -> bool:
        return False

    def worker(
        self,
        workflows: Workflows,
        data_converter: DataConverter | None = None,
        monitor: CompatibilityMonitor | None = None,
    ) -> ContainedWorker:
        if self._client is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        credential = None if self._credentials is None else self._credentials.synchronous
        flow = WorkItemFlow(self._config.max_answer * TOTAL)
        options = worker_options(self._config.max_answer * TOTAL, RECONNECT_SECONDS)
        worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4()}"
        own = self._config.worker
        if self._config.dispatch == "direct":
            certificates = self._tls() if self._secure else None
            remote = RemoteWorker(
                lambda: worker_channel(self._host_address, options, certificates),
                CallHeaders(self._interceptors(worker_id)),
                backoff_cap=BACKOFF_SECONDS,
                activity_threads=threads(own, workflows),
                sessions=self._config.sessions,
                session_bytes=self._config.session_bytes,
                emit_trace_spans=True,
                store=self._store,
                concurrency_options=concurrency(own, workflows),
                data_converter=data_converter,
                logger=quiet_logger(f"{self.name}.worker"),
                flow=flow,
            )
            return remote.add_workflows(workflows, monitor, own.stuck_after, own.versions)
        greeting = EngineGreeting()
        *token, hub_header = self._interceptors(worker_id)
        interceptors, channel = [greeting, flow, *token], None
        if self._certificates is not None:
            channel = grpc.intercept_channel(
                grpc.secure_channel(self._host_address, self._certificates, options=options.to_grpc_options()),
                *interceptors,
                hub_header,
            )
            self._channels.append(channel)
        worker = _Worker(
            host_address=self._host_address,
            taskhub=self._config.task_hub,
            token_credential=credential,
            channel=channel,
            secure_channel=self._secure,
            interceptors=interceptors,
            channel_options=options,
            concurrency_options=concurrency(own, workflows),
            data_converter=data_converter,
            logger=quiet_logger(f"{self.name}.worker"),
            flow=flow,
            greeting=greeting,
            store=self._store,
        )
        return worker.add_workflows(workflows, monitor, own.stuck_after, own.versions)
