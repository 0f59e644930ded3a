"""Configuration of engines, which run orchestrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from bridge.config.model.encryption import EncryptionConfig
from bridge.config.model.payloads import FilePayloadsConfig, RemotePayloadsConfig
from bridge.config.model.tls import ClientTlsConfig, ServerTlsConfig
from bridge.config.model.types import Address, Duration, Integer, Model, Size
from bridge.core.system_names import PREFIX
from bridge.sqlite_engine import defaults
from bridge.system.addresses import is_loopback


class WorkerConfig(Model):
    """Concurrency of the worker that runs workflows."""

    processes: Annotated[Integer, Field(ge=0, le=256)] | Literal["auto"] = Field(
        0,
        description="Worker processes that run the workflows, on an embedded engine with `dispatch: direct`; `auto`: "
        "one less than the processor cores; 0: the workflows run in the process of the daemon. The other settings "
        "apply to each process.",
    )
    process_items: Integer = Field(
        200,
        ge=1,
        description="Turns, activities and entity batches that one worker process holds at once, each; those beyond "
        "its threads wait there for a thread.",
    )
    process_bytes: Size = Field(16777216, ge=65536, description="Bytes of all work that one worker process holds.")
    memory_limit: Size | None = Field(
        None,
        ge=134217728,
        description="Memory of one worker process; allocations beyond it fail. null: no limit.",
    )
    max_orchestrations: Integer = Field(100, ge=1, description="Orchestration turns in progress at once.")
    max_activities: Integer = Field(100, ge=1, description="Activities in progress at once.")
    max_entities: Integer = Field(100, ge=1, description="Entity batches in progress at once.")
    threads: Integer = Field(
        defaults.WORKER_THREADS,
        ge=1,
        description="Threads for activities that are not `async`; where the SDK's own worker runs, for all and for "
        "orchestrations.",
    )
    publish_threads: Integer = Field(
        16, ge=1, description="Threads for publishing; a broker that hangs then blocks no other activity."
    )
    stuck_after: Duration | None = Field(
        300.0,
        gt=0,
        description="Time after which busy threads without progress, while other work waits, make the daemon "
        "unready; null: never.",
    )
    versions: tuple[Annotated[str, StringConstraints(max_length=100)], ...] = Field(
        (),
        description="Versions of orchestrations that this worker runs, `''` for instances without a version; other "
        "workers run the rest. Empty: all.",
    )


class EarlyMessagesConfig(Model):
    """Limits for messages that wait on the engine: early messages and quarantined keys."""

    poll: Duration | None = Field(
        None,
        gt=0,
        description="Longest time between two checks for the start of an instance while a message waits for it; null: "
        "`1m`, and `10m` on an embedded engine, which reports every start.",
    )
    max_messages: Integer = Field(100, ge=1, description="Messages that wait for one instance; more are dead-lettered.")
    max_bytes: Size = Field(524288, description="Bytes that wait for one instance, as JSON; more are dead-lettered.")
    max_message: Size = Field(262144, description="Largest message that may wait, as JSON; others are dead-lettered.")
    total_messages: Integer = Field(
        100_000, ge=1, description="Messages that wait on this engine, quarantined ones too; more are dead-lettered."
    )
    total_bytes: Size = Field(268435456, description="Bytes of all messages that wait on this engine, as JSON.")


class AnswersConfig(Model):
    """Verification of answers to requests."""

    signatures: Literal["required", "transition", "off"] = Field(
        "transition",
        description="`required`: an answer must repeat the signed correlation id of its request. "
        "`transition`: an answer without a signature is accepted if the engine has an open "
        "request of an earlier version. `off`: requests are not signed and answers not checked, "
        "while daemons of an earlier version run beside this one.",
    )


class EngineBase(Model):
    """Settings that every engine has."""

    timeout: Duration = Field(10.0, gt=0, description="Deadline of one call to the engine.")
    max_request: Size = Field(4194304, description="Largest request the engine takes; a larger one is dead-lettered.")
    max_actions_per_minute: Integer | None = Field(
        None,
        ge=1,
        description="Actions per minute and daemon, counted as by `bridge check --cost`; starts beyond the limit wait. "
        "null: no limit.",
    )
    worker: WorkerConfig = Field(
        WorkerConfig(), description="Settings of the worker that runs this engine's workflows."
    )
    dispatch: Literal["direct", "protocol"] = Field(
        "direct",
        description="Loop of the workers: `direct` is the bridge's own, which passes work to the SDK's executors, from "
        "another process on Linux over a channel of the bridge; `protocol` is the SDK's worker unchanged.",
    )
    sessions: Integer = Field(
        defaults.SESSIONS,
        ge=0,
        description="Orchestrations that stay in memory between their turns, with `dispatch: direct`; 0: every turn "
        "replays its orchestrator from the beginning.",
    )
    session_bytes: Size = Field(
        defaults.SESSION_BYTES, description="Bytes of history of all orchestrations that stay in memory."
    )
    early_messages: EarlyMessagesConfig = Field(
        EarlyMessagesConfig(), description="Limits for messages that wait on this engine."
    )
    answers: AnswersConfig = Field(AnswersConfig(), description="Settings for answers to requests of workflows.")
    encryption: EncryptionConfig | None = Field(
        None,
        description="Encryption of payloads at rest: of the whole file of an embedded engine, and of waiting "
        "messages on a scheduler; null: none.",
    )


class EmbeddedEngineConfig(EngineBase):
    """A durable engine inside the daemon, for one machine."""

    type: Literal["embedded"] = Field(description="Kind of engine.")
    path: str = Field(
        ".bridge/engine", description="Directory of the engine's file and socket, relative to the config file."
    )
    payloads: FilePayloadsConfig | None = Field(
        None, description="Store of large inputs, events and results; null: the engine itself holds all of them."
    )
    retention: Duration | None = Field(
        604800.0, description="Time that finished instances are kept; null: without limit."
    )
    retention_count: Integer | None = Field(
        None, ge=0, description="Maximum number of finished instances that are kept."
    )
    strict: bool = Field(
        False,
        description="Apply the limits of the Durable Task Scheduler: refuse ids of more than 100 characters "
        "or with characters other than printable ASCII, and payloads and entity states over 1 "
        "MiB.",
    )
    cache_bytes: Size = Field(
        defaults.CACHED_BYTES,
        description="Bytes of instances that the engine keeps in memory, and as many of entities; it reads "
        "others from the file when needed.",
    )
    unread_events: Integer = Field(
        defaults.UNREAD_EVENTS, ge=1, description="Unread events of one instance; further events are dead-lettered."
    )
    unread_bytes: Size = Field(defaults.UNREAD_BYTES, description="Bytes of unread events of one instance.")
    max_lost_workers: Integer = Field(
        defaults.LOST_WORKERS,
        ge=0,
        description="Worker processes that may die while they run the same work item alone, before the "
        "activity fails or the orchestration is suspended; 0: no limit.",
    )
    listen: Address | None = Field(
        None, description="Address `host:port` for clients and workers, in addition to the socket."
    )
    token: SecretStr | None = Field(
        None,
        description="Bearer token for `listen`. An address other than loopback needs it, or `tls` with `client_ca`.",
    )
    tls: ServerTlsConfig | None = Field(
        None, description="TLS of `listen`; an address other than loopback needs it. null: none."
    )
    behind_tls_proxy: bool = Field(False, description="Another process terminates TLS in front of `listen`.")
    max_message: Size = Field(defaults.MAX_REQUEST, ge=1024, description="Largest request that `listen` accepts.")
    max_connections: Integer = Field(
        defaults.MAX_CONNECTIONS,
        ge=1,
        description="Maximum number of connections to `listen`; further ones are closed at once.",
    )

    @model_validator(mode="after")
    def _check_processes(self) -> EmbeddedEngineConfig:
        if self.worker.processes and self.dispatch == "protocol":
            raise ValueError("`worker.processes` needs `dispatch: direct`")
        if self.worker.memory_limit is not None and not self.worker.processes:
            raise ValueError("`worker.memory_limit` needs `worker.processes`")
        return self

    @model_validator(mode="after")
    def _check_port(self) -> EmbeddedEngineConfig:
        if self.listen is None:
            if self.tls is not None:
                raise ValueError("`tls` needs `listen`")
        elif not is_loopback(self.listen.rpartition(":")[0]):
            if self.token is None and (self.tls is None or self.tls.client_ca is None):
                raise ValueError(
                    f"`listen: {self.listen}` is not loopback and needs a `token`, or `tls` with `client_ca`"
                )
            if self.tls is None and not self.behind_tls_proxy:
                raise ValueError(
                    f"`listen: {self.listen}` is not loopback and needs `tls`: the token would be sent unencrypted; "
                    "if another process terminates TLS, write `behind_tls_proxy: true`"
                )
        return self


def _check_endpoint(value: str) -> str:
    if "@" in value:
        raise ValueError("an endpoint must not contain credentials; use `credential` or `token`")
    return value


class SchedulerEngineConfig(EngineBase):
    """Azure Durable Task Scheduler, its emulator, or any Durable Task sidecar."""

    type: Literal["scheduler"] = Field(description="Kind of engine.")
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] = Field(
        "http://localhost:8080", description="Endpoint of the scheduler; an http endpoint is an emulator."
    )
    task_hub: str = Field("default", min_length=1, description="Name of the task hub.")
    credential: Literal["auto", "none", "default", "managed_identity", "workload_identity", "environment", "cli"] = (
        Field("auto", description="auto: none for http endpoints, else DefaultAzureCredential.")
    )
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")
    token: SecretStr | None = Field(None, description="Bearer token of a sidecar.")
    max_answer: Size = Field(
        67108864,
        ge=65536,
        description="Largest single answer of the engine. Answers in parts (listings, histories) may hold eight times "
        "as much together. Workers have no such limit.",
    )
    tls: ClientTlsConfig | None = Field(
        None,
        description="TLS to an https endpoint; null: the system's trusted authorities, without a client certificate.",
    )
    payloads: RemotePayloadsConfig | None = Field(
        None, description="Store of large inputs, events and results; null: the engine itself holds all of them."
    )
    retention: Duration | None = Field(
        None, description="Retention policy of the scheduler, which `bridge check` compares."
    )

    @model_validator(mode="after")
    def _check_processes(self) -> SchedulerEngineConfig:
        if self.worker.processes or self.worker.memory_limit is not None:
            raise ValueError(
                "`worker.processes` and `worker.memory_limit` need an embedded engine; beside a scheduler, run several "
                "`bridge worker`"
            )
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> SchedulerEngineConfig:
        if self.tls is not None and self.endpoint.startswith(("http://", "grpc://")):
            raise ValueError(f"`tls` needs an https endpoint, but the endpoint is `{self.endpoint}`")
        return self


ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]

EngineConfig = Annotated[EmbeddedEngineConfig | SchedulerEngineConfig, Field(discriminator="type")]


def _check_external(name: str) -> str:
    if name.lower().startswith(PREFIX):
        raise ValueError(f"names that begin with `{PREFIX}` are reserved for the bridge")
    return name


class WorkflowsConfig(Model):
    """Modules whose orchestrators, activities and entities this worker runs."""

    modules: tuple[ModuleName, ...] = Field((), description="Python modules, also found beside the configuration file.")
    external: tuple[Annotated[str, AfterValidator(_check_external)], ...] = Field(
        (), description="Orchestrations, activities and entities that other workers run."
    )
