"""Configuration of engines, which run orchestrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from bridge.config.model.encryption import EncryptionConfig
from bridge.config.model.tls import ClientTlsConfig, ServerTlsConfig
from bridge.config.model.types import Address, Duration, Integer, Model, Size
from bridge.core.kinds import OWN_NAMES
from bridge.system.addresses import is_loopback


class WorkerConfig(Model):
    """Concurrency of the worker that runs workflows in this process."""

    max_orchestrations: Integer = Field(100, ge=1, description="Orchestration turns in progress at once.")
    max_activities: Integer = Field(100, ge=1, description="Activities in progress at once.")
    max_entities: Integer = Field(100, ge=1, description="Entity batches in progress at once.")
    threads: Integer = Field(
        16, ge=1, description="Threads for activities; where the SDK's own worker runs, for orchestrations too."
    )
    publish_threads: Integer = Field(
        16, ge=1, description="Threads for publishing, apart from the others: a broker that hangs stops nothing else."
    )
    stuck_after: Duration | None = Field(
        300.0,
        gt=0,
        description="Time without progress after which work that waits behind busy threads makes the daemon unready; "
        "null: never.",
    )


class ParkingConfig(Model):
    """Limits for messages that wait on the engine: early messages and quarantined keys."""

    poll: Duration | None = Field(
        None,
        gt=0,
        description="Longest time until a start that nobody told of is noticed, while a message waits; null: `1m`, and "
        "`10m` on an embedded engine, which tells of every start.",
    )
    max_messages: Integer = Field(100, ge=1, description="Messages that wait for one instance; more are dead-lettered.")
    max_bytes: Size = Field(524288, description="Bytes that wait for one instance, as JSON; more are dead-lettered.")
    max_message: Size = Field(262144, description="Largest message that is parked, as JSON; others are dead-lettered.")
    total_messages: Integer = Field(
        100_000, ge=1, description="Messages that wait on this engine, quarantined ones too; more are dead-lettered."
    )
    total_bytes: Size = Field(268435456, description="Bytes of all messages that wait on this engine, as JSON.")


class AnswersConfig(Model):
    """Verification of answers to requests."""

    signatures: Literal["required", "transition", "off"] = Field(
        "transition",
        description="`required`: an answer repeats the signed correlation id of its request. `transition`: one without "
        "a signature is accepted where the engine shows an open request that an earlier version sent. `off`: requests "
        "are not signed and answers not checked, while daemons of an earlier version run beside this one.",
    )


class EngineBase(Model):
    """Settings that every engine has."""

    timeout: Duration = Field(10.0, gt=0, description="Deadline of one call to the engine.")
    max_request: Size = Field(4194304, description="Largest request the engine takes; a larger one is dead-lettered.")
    worker: WorkerConfig = Field(WorkerConfig(), description="The worker that runs this engine's workflows.")
    parking: ParkingConfig = Field(ParkingConfig(), description="Messages that wait on this engine.")
    answers: AnswersConfig = Field(AnswersConfig(), description="Answers to requests of this engine's workflows.")
    encryption: EncryptionConfig | None = Field(
        None,
        description="Encryption of payloads at rest: of all that the file of an embedded engine holds, and of messages "
        "that wait on a scheduler; null: none.",
    )


class EmbeddedEngineConfig(EngineBase):
    """A durable engine inside the daemon, for one machine."""

    type: Literal["embedded"] = Field(description="The kind of engine.")
    path: str = Field(
        ".bridge/engine", description="Directory of the engine's file and socket, relative to the config file."
    )
    retention: Duration | None = Field(604800.0, description="How long finished instances are kept; null: for ever.")
    retention_count: Integer | None = Field(None, ge=0, description="How many finished instances are kept at most.")
    strict: bool = Field(
        False,
        description="Refuse what the Durable Task Scheduler would: ids of more than 100 characters or with other than "
        "printable ASCII ones, payloads and entity states over 1 MiB.",
    )
    dispatch: Literal["direct", "protocol"] = Field(
        "direct",
        description="How this process's worker gets its work: `direct` hands it straight to the SDK's executors; "
        "`protocol` runs the SDK's worker unchanged.",
    )
    sessions: Integer = Field(
        1000,
        ge=0,
        description="Orchestrations that stay in memory between their turns, with `dispatch: direct`; 0: every turn "
        "replays its orchestrator from the beginning.",
    )
    session_bytes: Size = Field(67108864, description="Bytes of history of all orchestrations that stay in memory.")
    cache_bytes: Size = Field(
        33554432,
        description="Bytes of instances that the engine keeps in memory, and as many of entities; others are read from "
        "the file when they are needed.",
    )
    unread_events: Integer = Field(
        10_000, ge=1, description="Events that one instance may have unread; a further one is dead-lettered."
    )
    unread_bytes: Size = Field(16777216, description="Bytes of the events that one instance may have unread.")
    max_lost_workers: Integer = Field(
        5,
        ge=0,
        description="Worker processes that may die while they run one work item and nothing else, after which the "
        "activity fails or the orchestration is suspended; 0: any number.",
    )
    listen: Address | None = Field(None, description="`host:port` for clients and workers beyond the socket.")
    token: SecretStr | None = Field(
        None,
        description="Bearer token that `listen` asks for. Beyond loopback it, or `tls` with `client_ca`, is needed.",
    )
    tls: ServerTlsConfig | None = Field(None, description="TLS of `listen`; needed beyond loopback. null: none.")
    behind_tls_proxy: bool = Field(
        False, description="Another process ends TLS before `listen`, so that it may go without beyond loopback."
    )
    max_message: Size = Field(67108864, ge=1024, description="Largest request that `listen` takes.")
    max_connections: Integer = Field(256, ge=1, description="Connections to `listen`; further ones are closed at once.")

    @model_validator(mode="after")
    def _check_port(self) -> EmbeddedEngineConfig:
        if self.listen is None:
            if self.tls is not None:
                raise ValueError("`tls` is for `listen`, which is missing")
        elif not is_loopback(self.listen.rpartition(":")[0]):
            if self.token is None and (self.tls is None or self.tls.client_ca is None):
                raise ValueError(
                    f"`listen: {self.listen}` is not loopback and needs a `token`, or `tls` with `client_ca`"
                )
            if self.tls is None and not self.behind_tls_proxy:
                raise ValueError(
                    f"`listen: {self.listen}` is not loopback and needs `tls`: the token would travel in the clear; "
                    "where another process ends TLS, write `behind_tls_proxy: true`"
                )
        return self


def _check_endpoint(value: str) -> str:
    if "@" in value:
        raise ValueError("an endpoint holds no credentials; write them below `credential` or `token`")
    return value


class SchedulerEngineConfig(EngineBase):
    """Azure Durable Task Scheduler, its emulator, or any Durable Task sidecar."""

    type: Literal["scheduler"] = Field(description="The kind of engine.")
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] = Field(
        "http://localhost:8080", description="The scheduler's endpoint; http is the emulator's."
    )
    task_hub: str = Field("default", min_length=1, description="The task hub's name.")
    credential: Literal["auto", "none", "default", "managed_identity", "workload_identity", "environment", "cli"] = (
        Field("auto", description="auto: none for http endpoints, else DefaultAzureCredential.")
    )
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")
    token: SecretStr | None = Field(None, description="Bearer token for a sidecar that asks for one.")
    max_answer: Size = Field(
        67108864,
        ge=65536,
        description="Largest single answer of the engine. Answers in parts (listings, histories) may hold eight times "
        "as much together. Workers have no such limit.",
    )
    tls: ClientTlsConfig | None = Field(
        None, description="TLS to an https endpoint; null: what the system trusts, and no certificate of ours."
    )
    retention: Duration | None = Field(
        None, description="The scheduler's retention policy, for `bridge check` to compare."
    )

    @model_validator(mode="after")
    def _check_tls(self) -> SchedulerEngineConfig:
        if self.tls is not None and self.endpoint.startswith(("http://", "grpc://")):
            raise ValueError(f"`tls` is for an https endpoint, and `{self.endpoint}` is none")
        return self


ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]

EngineConfig = Annotated[EmbeddedEngineConfig | SchedulerEngineConfig, Field(discriminator="type")]


def _check_external(name: str) -> str:
    if name.lower().startswith(OWN_NAMES):
        raise ValueError(f"names that begin with `{OWN_NAMES}` are kept for the bridge's own, which its workers run")
    return name


class WorkflowsConfig(Model):
    """Modules whose orchestrators, activities and entities this worker runs."""

    modules: tuple[ModuleName, ...] = Field((), description="Python modules, found beside the configuration file too.")
    external: tuple[Annotated[str, AfterValidator(_check_external)], ...] = Field(
        (), description="Orchestrations, activities and entities that other workers run."
    )
