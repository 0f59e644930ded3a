"""Embedded engine: hosted in the daemon's process, and reached from other processes over a socket."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
from durabletask.client import AsyncTaskHubGrpcClient

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import EngineMisconfigured, EngineTimeout, EngineUnavailable
from bridge.core.system_names import SAGA
from bridge.engines.base import EngineUsage, FinishListener, InstanceCounts, RunListener
from bridge.engines.client import EngineClient
from bridge.engines.embedded.address import FILE, SOCKET, WORKERS, EngineSocket, make_private
from bridge.engines.embedded.stored import StoredFile
from bridge.engines.keyrings import Keys, no_keys
from bridge.engines.message_sealer import MessageSealer
from bridge.engines.payloads.large_payloads import ClientConverter, FilePayloadStore, file_settings
from bridge.engines.remote.grpc_channel import (
    BEFORE,
    BEFORE_TRACING,
    RECONNECT_SECONDS,
    CallHeaders,
    channel_options,
    worker_channel,
)
from bridge.engines.remote.remote_channel import RemoteChannel
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.large_payloads.files import PayloadFiles
from bridge.sqlite_engine.maintenance.inspection import read_newest
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock
from bridge.sqlite_engine.storage import counts
from bridge.sqlite_engine.storage.listing import ListFilter, ListPart
from bridge.system import private
from bridge.system.processes import is_running, is_stopped
from bridge.system.tls import TlsFiles

if TYPE_CHECKING:
    from durabletask.grpc_options import GrpcChannelOptions
    from durabletask.serialization import DataConverter

    from bridge.engines.embedded.inprocess import AioChannel, InProcessChannel
    from bridge.engines.embedded.pools import PooledWorker
    from bridge.engines.embedded.processes.attached import AttachedWorker
    from bridge.engines.embedded.processes.listener import WorkerSocket
    from bridge.engines.embedded.processes.settings import ProcessSettings
    from bridge.engines.embedded.processes.supervisor import WorkerProcesses
    from bridge.engines.worker.compatibility import CompatibilityMonitor
    from bridge.engines.worker.contained_worker import RunningWorker
    from bridge.engines.worker.setup import MonitoredWorker
    from bridge.engines.workflows import Workflows
    from bridge.sqlite_engine.database import Database
    from bridge.sqlite_engine.hub.kept_spans import KeptSpans
    from bridge.sqlite_engine.options import EndsOptions, TracingOptions
    from bridge.sqlite_engine.protocol.server import Guard, Server
    from bridge.sqlite_engine.storage.ends import KeptEnds

_DAY_SECONDS = 86_400

HOST_SECONDS = 10.0
"""Longest wait of a process that attaches itself for a host that has the file and does not accept connections yet."""

PROBE_SECONDS = 0.2
"""Pause between attempts meanwhile: the lock of a file has no event."""


class EmbeddedEngine:
    """Engine for one machine: a task hub in one SQLite file.

    directory: contains the file, its lock and the socket.
    host: True in the one process that runs the engine, False in processes that attach to it.
    keys: keys of the file's encryption, read when the engine starts.
    lineage_records: limit of the records in the lineage index; None: no index is written.
    tracing: settings of the spans of workflows; None: none are made.
    ends: settings of the ends of instances that are announced; None: none are.
    """

    durable = True
    lineage = None
    notifies_instance_started = True
    messages = MessageSealer()
    """Sealer that leaves messages unchanged: the payloads of the file are encrypted by the engine."""
    confirms_event_delivery = True

    def __init__(
        self,
        name: str,
        config: EmbeddedEngineConfig,
        directory: Path,
        host: bool,
        keys: Keys = no_keys,
        lineage_records: int | None = None,
        tracing: TracingOptions | None = None,
        ends: EndsOptions | None = None,
    ) -> None:
        self.name = name
        self._config = config
        self._directory = directory
        self._host = host
        self._keys = keys
        self._lineage_records = lineage_records
        self._tracing = tracing
        self._payloads = file_settings(config.payloads, directory / FILE)
        self._store = FilePayloadStore(self._payloads)
        self._ends = ends
        self._database: Database | None = None
        self._servers: list[Server] = []
        self._worker_socket: WorkerSocket | None = None
        self._address: EngineSocket | None = None
        self._channel: AioChannel | RemoteChannel | None = None
        self._client: EngineClient | None = None
        self._workers: list[InProcessChannel] = []

    @property
    def is_host(self) -> bool:
        """True in the process that runs the engine."""
        return self._host

    @property
    def description(self) -> str:
        if self._host:
            listens = f", listens on {self._config.listen}" if self._config.listen else ""
            return f"durable, in {self._directory / FILE}{listens}"
        return f"durable, attached through {self._directory / SOCKET}"

    @property
    def faults(self) -> Mapping[str, int]:
        return {} if self._database is None else dict(self._database.writer.given_up)

    @property
    def usage(self) -> EngineUsage | None:
        """Memory use and refused events; None in a process that does not host the engine."""
        if self._database is None:
            return None
        hub = self._database.hub
        socket = self._worker_socket
        return EngineUsage(
            hub.instances.bytes,
            hub.entities.cached_bytes,
            hub.events_refused,
            hub.index.records,
            () if socket is None else socket.processes(),
            {} if socket is None else socket.ends.copy(),
        )

    @property
    def keeps_lineage(self) -> bool:
        return self._lineage_records is not None

    @property
    def spans(self) -> KeptSpans | None:
        """Spans of workflows that were not sent yet; None where none are made."""
        return None if self._database is None else self._database.spans

    @property
    def ends(self) -> KeptEnds | None:
        """Ends of instances that were not announced yet; None where this process keeps none."""
        return None if self._database is None else self._database.ends

    async def instance_counts(self) -> InstanceCounts | None:
        """Counts in the engine's file, whichever process hosts the engine."""
        file = self._directory / FILE
        rows = await asyncio.to_thread(counts.read, file)
        if rows is None:
            return None
        versions = await asyncio.to_thread(counts.read_versions, file)
        return replace(_summed(rows), versions={(name, version): number for name, version, number in versions})

    async def newest_instances(self, wanted: ListFilter, limit: int, before: int | None) -> ListPart | None:
        """See `ListingEngine.newest_instances`."""
        path = self._directory / FILE
        return await asyncio.to_thread(lambda: read_newest(path, self._keys(), wanted, limit, before, SAGA))

    async def entity_states(self, prefix: str) -> Mapping[str, str]:
        """See `StoredEntities.entity_states`."""
        return await StoredFile(self._directory, self._keys).entity_states(prefix)

    def watch_finishes(self, listener: FinishListener) -> None:
        if self._database is not None:
            self._database.hub.watch_finishes(listener)

    def has_no_early_messages(self, entity_id: str) -> bool:
        """True when the entity is known to hold no early messages.

        The answer is always False in a process that does not host the engine.
        """
        return self._database is not None and entity_id not in self._database.hub.entities.companions

    async def start(self) -> None:
        """Host the engine, or attach to it.

        Raises: EngineUnavailable (another process hosts it, the file cannot be read or written), EngineMisconfigured
        (the directory cannot be used, the file is of a newer version or not an engine's, a key of its encryption is
        missing or cannot be used).
        """
        if self._client is not None:
            return
        if self._host:
            from bridge.engines.embedded.inprocess import AioChannel
            from bridge.sqlite_engine.protocol.service import AioSidecarService

            await asyncio.to_thread(self._start_host)
            assert self._database is not None
            service = AioSidecarService(self._database)
            self._use(
                AioChannel(
                    service,
                    timeout=self._config.timeout,
                    max_request=self._config.max_request,
                    before=BEFORE if self._tracing is None else BEFORE_TRACING,
                )
            )
        else:
            self._attach()

    def _start_host(self) -> None:
        # Only the daemon imports the engine itself: a command that attaches to it would wait a quarter of a second
        from bridge.engines.embedded.host_rules import BridgeRules
        from bridge.sqlite_engine.database import Database
        from bridge.sqlite_engine.defaults import MAX_REQUEST
        from bridge.sqlite_engine.options import PERIOD_SECONDS, DatabaseOptions, RetentionPolicy
        from bridge.sqlite_engine.protocol.server import Server
        from bridge.sqlite_engine.protocol.service import AioSidecarService

        make_private(self._directory)
        age = self._config.retention
        period = PERIOD_SECONDS if age is None else min(PERIOD_SECONDS, max(1.0, age))
        retention = RetentionPolicy(age, self._config.retention_count, period)
        options = DatabaseOptions(
            strict=self._config.strict,
            retention=retention,
            max_lost_workers=self._config.max_lost_workers,
            unread_events=self._config.unread_events,
            unread_bytes=self._config.unread_bytes,
            max_cached_bytes=self._config.cache_bytes,
            max_request=max(MAX_REQUEST, self._config.max_message),
            max_payload=self._payloads.max,
            keyring=self._keys(),
            rules=BridgeRules(PayloadFiles(Path(self._payloads.directory))),
            index=self._lineage_records is not None,
            index_records=self._lineage_records or 1,
            tracing=self._tracing,
            ends=self._ends,
        )
        database = Database(self._directory / FILE, options)
        database.start()
        self._database = database
        try:
            # Only the holder of the lock gets here, so an existing socket file belongs to a dead host.
            (self._directory / SOCKET).unlink(missing_ok=True)
            if sys.platform == "linux":
                # First: a worker that finds the other socket alone takes this daemon for one of an earlier version
                self._listen_for_workers(database)
            self._address = EngineSocket(self._directory)
            service = AioSidecarService(database)
            local = Server(service, [self._address.target])
            local.start()
            self._servers.append(local)
            private.narrow([self._directory / SOCKET])
            if self._config.listen is not None:
                remote = Server(service, [self._config.listen], self._guard())
                remote.start()
                self._servers.append(remote)
        except BaseException:
            self._stop_host()
            raise

    def _listen_for_workers(self, database: Database) -> None:
        from bridge.engines.embedded.processes.listener import WorkerSocket

        listener = WorkerSocket(database, EngineSocket(self._directory, WORKERS))
        try:
            listener.start()
        except OSError as error:
            raise EngineUnavailable(
                f"{self._directory / WORKERS}: the socket cannot be made: {error.strerror}"
            ) from error
        self._worker_socket = listener

    def _guard(self) -> Guard:
        from bridge.sqlite_engine.protocol.server import Guard

        config, tls = self._config, None
        if config.tls is not None:
            key, client_ca = (None if file is None else Path(file) for file in (config.tls.key, config.tls.client_ca))
            tls = TlsFiles(Path(config.tls.certificate), key, client_ca)
        token = config.token.get_secret_value() if config.token is not None else None
        return Guard(token, tls, config.behind_tls_proxy, config.max_message, config.max_connections)

    def _stop_host(self) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            # Waiting calls end first; otherwise the servers could not stop.
            database.stop(unlocks=False)
            # Before that of the workers: see `_start_host`
            (self._directory / SOCKET).unlink(missing_ok=True)
            if self._worker_socket is not None:
                self._worker_socket.stop()
                self._worker_socket = None
            for server in self._servers:
                server.stop()
            self._servers.clear()
        finally:
            # Last: the sockets of the next host have the same paths
            database.unlock()

    def _attach(self) -> None:
        self._address = EngineSocket(self._directory)
        target = self._address.target
        options = channel_options(self._config.max_request, RECONNECT_SECONDS, proxy=False).to_grpc_options()
        self._use(RemoteChannel(lambda: grpc.aio.insecure_channel(target, options), self._config.timeout))

    def _use(self, channel: AioChannel | RemoteChannel) -> None:
        """Create the client on a channel to the engine."""
        self._channel = channel
        sdk = AsyncTaskHubGrpcClient(
            channel=channel,
            logger=quiet_logger(f"{self.name}.client"),
            data_converter=ClientConverter(),
            emit_trace_spans=False,
        )
        self._client = EngineClient(sdk, self._store)

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
        if self._database is not None:
            await asyncio.to_thread(self._stop_host)
        if self._address is not None:
            self._address.close()
            self._address = None

    async def probe(self) -> None:
        """Check that a daemon hosts the engine. Raises: EngineUnavailable, with the next step."""
        if self._host:
            if self._client is None:
                raise EngineUnavailable(f"engine {self.name!r} is not started")
            return
        end = time.monotonic() + HOST_SECONDS
        while True:
            try:
                await self.client.probe(f"engine {self.name!r} at {self._directory / SOCKET}")
            except (EngineUnavailable, EngineTimeout) as error:
                pid = DatabaseLock(self._directory / FILE).holder()
                if pid is not None and is_stopped(pid):
                    raise EngineUnavailable(
                        f"engine {self.name!r} does not answer: its process {pid} is frozen by a signal; "
                        f"`kill -CONT {pid}`"
                    ) from error
                # A host that starts, or is too busy to answer in time, has the file already
                if pid is not None and is_running(pid) and time.monotonic() < end:
                    await asyncio.sleep(PROBE_SECONDS)
                    continue
                if isinstance(error, EngineTimeout):
                    raise
                raise EngineUnavailable(
                    f"no daemon hosts engine {self.name!r} at {self._directory / SOCKET}; start `bridge serve` "
                    "with this configuration, or check the engine's `path`"
                ) from error
            return

    @property
    def client(self) -> EngineClient:
        if self._client is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        return self._client

    def watch_runs(self, listener: RunListener) -> bool:
        if self._database is None:
            return False
        self._database.hub.watch_runs(listener)
        return True

    def worker_processes(
        self,
        number: int,
        settings: ProcessSettings,
        workflows: Workflows,
        command: Sequence[str],
        monitor: CompatibilityMonitor | None = None,
        figures: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> WorkerProcesses:
        """Create the worker processes of the workflows. The caller starts and stops them.

        command: starts one process. settings: what the processes import. The limits are those of the configuration.
        monitor, figures: as for `WorkerProcesses`. Raises: EngineMisconfigured where the system has no such processes.
        """
        if sys.platform != "linux":
            raise EngineMisconfigured("`worker.processes` needs Linux; write `processes: 0`")
        from bridge.engines.embedded.processes.supervisor import StreamLimits, WorkerProcesses

        if self._database is None:
            raise RuntimeError(f"engine {self.name!r} is not hosted here")
        worker = self._config.worker

        limits = StreamLimits(
            (worker.process_items, worker.process_items, worker.process_items),
            worker.process_bytes,
            (self._config.sessions, self._config.session_bytes),
        )
        settings = replace(
            settings,
            threads=worker.threads,
            stuck_after=worker.stuck_after,
            sessions=self._config.sessions > 0,
            memory_limit=worker.memory_limit,
            versions=worker.versions,
            payloads=self._payloads,
        )
        return WorkerProcesses(
            self._database, number, settings, limits, workflows, command, monitor=monitor, figures=figures
        )

    def worker(
        self,
        workflows: Workflows,
        data_converter: DataConverter | None = None,
        monitor: CompatibilityMonitor | None = None,
    ) -> RunningWorker:
        from bridge.engines.worker.setup import concurrency

        if self._database is None and self._address is None:
            raise RuntimeError(f"engine {self.name!r} is not started")
        if self._database is None and self._joins_by_channel:
            return self._attached_worker(workflows, data_converter, monitor)
        own = self._config.worker
        options: dict[str, Any] = {
            "logger": quiet_logger(f"{self.name}.worker"),
            "concurrency_options": concurrency(own, workflows),
            "data_converter": data_converter,
            "store": self._store,
        }
        is_direct = self._config.dispatch == "direct"
        worker = self._direct_worker(workflows, options) if is_direct else self._protocol_worker(options)
        return worker.add_workflows(workflows, monitor, own.stuck_after, own.versions)

    def _direct_worker(self, workflows: Workflows, options: dict[str, Any]) -> PooledWorker:
        """Worker with thread pools of its own. options: those of the SDK's worker."""
        from bridge.engines.embedded.remote.worker import RemoteWorker
        from bridge.engines.embedded.worker import DirectWorker
        from bridge.engines.worker.setup import threads

        options |= {
            "activity_threads": threads(self._config.worker, workflows),
            "sessions": self._config.sessions,
            "session_bytes": self._config.session_bytes,
        }
        if self._database is not None:
            return DirectWorker(self._database, **options)
        connect = partial(worker_channel, *self._connection())
        return RemoteWorker(connect, CallHeaders(), backoff_cap=RECONNECT_SECONDS, emit_trace_spans=False, **options)

    def _protocol_worker(self, options: dict[str, Any]) -> MonitoredWorker:
        """Worker of the SDK, with a stream of the sidecar protocol. options: those of the SDK's worker."""
        from durabletask.grpc_options import GrpcWorkerResiliencyOptions

        from bridge.engines.embedded.inprocess import InProcessChannel
        from bridge.engines.worker.items import EngineGreeting
        from bridge.engines.worker.setup import MonitoredWorker
        from bridge.sqlite_engine.protocol.service import SidecarService

        if self._database is not None:
            channel = InProcessChannel(SidecarService(self._database), timeout=self._config.timeout)
            self._workers.append(channel)
            options |= {"channel": channel, "running": self._database.running}
        else:
            options["host_address"], options["channel_options"] = self._connection()
        # A dead host breaks the stream at once. Silence only means that there is no work
        resiliency = GrpcWorkerResiliencyOptions(
            silent_disconnect_timeout_seconds=0, reconnect_backoff_cap_seconds=RECONNECT_SECONDS
        )
        return MonitoredWorker(
            resiliency_options=resiliency,
            greeting=EngineGreeting(takes_back=True),
            emit_trace_spans=False,
            **options,
        )

    def _connection(self) -> tuple[str, GrpcChannelOptions]:
        """gRPC target of the engine, and the options of a worker's channel to it."""
        assert self._address is not None
        return self._address.target, channel_options(None, RECONNECT_SECONDS, proxy=False)

    @property
    def _joins_by_channel(self) -> bool:
        """True when workers of this process reach the engine over the channel, and not by gRPC.

        A daemon of an earlier version has no socket for it.
        """
        if sys.platform != "linux" or self._config.dispatch == "protocol":
            return False
        return (self._directory / WORKERS).exists() or not (self._directory / SOCKET).exists()

    def _attached_worker(
        self, workflows: Workflows, data_converter: DataConverter | None, monitor: CompatibilityMonitor | None
    ) -> AttachedWorker:
        from durabletask.internal import orchestrator_service_pb2 as pb

        from bridge.engines.embedded.processes.attached import AttachedWorker
        from bridge.engines.embedded.processes.greeting import Greeting, names_of
        from bridge.engines.embedded.processes.process_worker import Outbox, ProcessWorker, SlotRecord
        from bridge.engines.embedded.processes.settings import ProcessSettings
        from bridge.engines.worker.containment import WorkerStats
        from bridge.engines.worker.setup import threads

        config, own = self._config, self._config.worker
        settings = ProcessSettings(
            self.name,
            (),
            "",
            threads=threads(own, workflows),
            sessions=config.sessions > 0,
            versions=own.versions,
            payloads=self._payloads,
        )

        def make(running: SlotRecord, outbox: Outbox, stats: WorkerStats) -> ProcessWorker:
            worker = ProcessWorker(
                settings,
                running,
                outbox,
                stats=stats,
                logger=quiet_logger(f"{self.name}.worker"),
                data_converter=data_converter,
            )
            return worker.add_workflows(workflows, monitor, own.stuck_after, own.versions)

        return AttachedWorker(
            lambda: EngineSocket(self._directory, WORKERS),
            make,
            pb.GetWorkItemsRequest(
                maxConcurrentOrchestrationWorkItems=own.process_items,
                maxConcurrentActivityWorkItems=own.process_items,
                maxConcurrentEntityWorkItems=own.process_items,
            ),
            Greeting((config.sessions, config.session_bytes), own.process_bytes, names_of(workflows)),
        )


def _summed(rows: Sequence[tuple[int, str, str, str, str, int]]) -> InstanceCounts:
    today = int(time.time()) // _DAY_SECONDS
    instances: Counter[tuple[str, str]] = Counter()
    sagas: Counter[tuple[str, str]] = Counter()
    ended: Counter[tuple[str, str]] = Counter()
    ended_sagas: Counter[tuple[str, str]] = Counter()
    failed: Counter[str] = Counter()
    failed_today: Counter[str] = Counter()
    for day, orchestration, saga, status, outcome, number in rows:
        if day not in (0, today):
            continue
        by_status, by_outcome = (ended, ended_sagas) if day else (instances, sagas)
        name = saga if orchestration == SAGA and saga else orchestration
        by_status[name, status] += number
        if outcome:
            by_outcome[saga, outcome] += number
        if status == "FAILED" and outcome != "compensated":
            (failed_today if day else failed)[name] += number
    return InstanceCounts(instances, sagas, ended, ended_sagas, failed, failed_today)
