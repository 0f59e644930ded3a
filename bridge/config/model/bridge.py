"""The configuration as a whole, and its `ops` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bridge.config.model.access import AccessConfig
from bridge.config.model.brokers import BrokerConfig, TargetConfig
from bridge.config.model.check import CheckConfig
from bridge.config.model.engines import EngineConfig, WorkflowsConfig
from bridge.config.model.registries import RegistryConfig
from bridge.config.model.routes import RouteConfig
from bridge.config.model.sagas import SagaConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.model.tls import ClientTlsConfig, ServerTlsConfig
from bridge.config.model.types import Duration, Integer, Model, Name, Share, Size
from bridge.core.canary import AFTER
from bridge.core.lifecycle import EventKind
from bridge.sqlite_engine.defaults import INDEX_RECORDS
from bridge.system import log_defaults


class ConnectionsConfig(Model):
    """Limits of connections."""

    max_connections: Integer = Field(
        256,
        ge=1,
        description="Maximum number of connections; a further one closes the connection that was idle longest.",
    )
    header_timeout: Duration = Field(
        10.0,
        gt=0,
        description="Time from the connection, or from the first byte of a request, to the end of the headers.",
    )
    idle_timeout: Duration = Field(75.0, gt=0, description="Longest pause between two requests of a connection.")


class ControlConfig(ConnectionsConfig):
    """The control socket."""

    max_connections: Integer = Field(
        64,
        ge=1,
        description="Maximum number of connections; a further one closes the connection that was idle longest.",
    )


class ReloadConfig(Model):
    """Reload of the configuration without a request."""

    watch: bool = Field(
        False,
        description="Reload when the configuration files have changed, as SIGHUP and `bridge reload` do. They are read "
        "when they have not changed for one `interval`.",
    )
    interval: Duration = Field(2.0, gt=0, description="Time between two checks of the files, with `watch`.")


class PeersConfig(Model):
    """Other daemons of the engine. Daemons with the same `access.sessions.keys` ask each other for their status."""

    url: str | None = Field(
        None,
        pattern=r"^(https?://[^\s/@?#,]+|[\w.-]+|[\da-fA-F:.]*:[\da-fA-F:.]*:[\da-fA-F:.]*)$",
        description="Address of this port for the other daemons: a URL, or a name or IP address alone, such as "
        "`${POD_IP}`. Scheme and port that are not given are those in use. null: `host` and `port`, if `host` is one "
        "address beyond loopback; else the others cannot ask this daemon.",
    )
    server_name: str | None = Field(
        None,
        min_length=1,
        pattern=r"^[^\s/@]+$",
        description="Name in the certificates of the other daemons; null: that of their address.",
    )
    tls: ClientTlsConfig | None = Field(
        None, description="TLS to the other daemons; null: trusts the authorities of the system."
    )


class HttpConfig(ConnectionsConfig):
    """Health, metrics and the API over HTTP, on loopback by default."""

    host: str = Field("127.0.0.1", min_length=1, pattern=r"^[^\s/@]*$", description="Address to listen on.")
    port: Integer = Field(
        8099, ge=0, le=65535, description="Port; 0 selects a free one, which `bridge worker` does by default."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Accepted Host headers, in addition to localhost and the bound address."
    )
    max_streams: Integer = Field(
        128,
        ge=0,
        description="Maximum number of open streams (live pages, `GET tap`), at most half of `max_connections`: probes "
        "find a free connection then. A further one is refused.",
    )
    tls: ServerTlsConfig | None = Field(None, description="TLS; null: none.")
    access: AccessConfig = Field(AccessConfig(), description="Access to the API.")
    peers: PeersConfig = Field(PeersConfig(), description="Other daemons of the engine.")


class LogConfig(Model):
    """Log of the daemon on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        log_defaults.LEVEL, description="Lowest level of records that are written."
    )
    format: Literal["auto", "human", "json"] = Field(
        log_defaults.FORMAT, description="auto: `human` on a terminal, else JSON."
    )
    libraries: Literal["info", "warning", "error"] = Field(
        log_defaults.LIBRARIES,
        description="Lowest level of records of libraries. Debug records of libraries may contain passwords "
        "and payloads and are never written.",
    )
    failures: Integer = Field(
        100,
        ge=1,
        le=100_000,
        description="Most lines per minute and engine about failed instances and compensated sagas. One more line "
        "counts the others.",
    )


class AuditConfig(Model):
    """Audit files on disk, for each embedded engine and for the state directory."""

    max_bytes: Size = Field(4194304, ge=65536, description="Size at which the file is rotated.")
    files: Integer = Field(8, ge=1, le=1000, description="Number of files that are kept; the oldest one is removed.")


class LineageShardsConfig(Model):
    """Index of messages on remote engines: entities of the task hub."""

    number: Integer = Field(
        64, ge=1, le=4096, description="Entities among which the ids are spread. Another number begins a new index."
    )
    ids: Integer = Field(2000, ge=1, le=10_000, description="Rows that one entity keeps; the oldest are removed.")
    age: Duration = Field(604800.0, ge=60, description="Time for which rows are kept.")
    pause: Duration = Field(
        10.0, ge=0.05, le=3600, description="Time between two writes of a process. Each costs one action per entity."
    )
    buffer: Integer = Field(
        20_000, ge=100, description="Rows in memory of a process that wait for a write; further ones are dropped."
    )


class LineageConfig(Model):
    """Index of messages, for `bridge trace`."""

    index: Literal["off", "embedded", "all"] = Field(
        "embedded",
        description="`embedded`: embedded engines keep an index of the messages that led to their instances and that "
        "these published. `all`: remote engines too, where writes are billed. `off`: none. `bridge trace` searches the "
        "instances of an engine without an index.",
    )
    shards: LineageShardsConfig = Field(LineageShardsConfig(), description="Index on remote engines.")
    records: Integer = Field(
        INDEX_RECORDS,
        ge=1,
        description="Dead letters that the index of an engine keeps, and as many signals to entities; the oldest are "
        "removed.",
    )
    configurations: Integer = Field(
        50,
        ge=1,
        le=1000,
        description="Versions of the configuration that the state directory keeps to explain earlier decisions; the "
        "oldest are removed.",
    )


class TracingConfig(Model):
    """Traces in OpenTelemetry's format (extra `otel`). The exporter's variables `OTEL_*` apply."""

    enabled: Literal["auto"] | bool = Field(
        "auto",
        description="auto: when the extra is installed and `endpoint`, `OTEL_EXPORTER_OTLP_ENDPOINT` or "
        "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set.",
    )
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        description="Base URL of the receiver (OTLP over HTTP), without "
        "`/v1/traces`; null: the endpoint in the variables.",
    )
    parent: Literal["message", "link"] = Field(
        "message",
        description="message: a message's span continues the trace of its sender. link: it begins a trace of its own "
        "with a link to the sender's.",
    )
    sample: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of sampled traces among those that begin here; other "
        "traces follow the decision of their sender. "
        "null: `OTEL_TRACES_SAMPLER`.",
    )
    max_buffered: Integer = Field(
        50_000, ge=100, description="Spans of messages in memory that are not sent yet; further ones are dropped."
    )
    max_backlog: Size = Field(
        268435456,
        ge=65536,
        description="Bytes of spans of workflows that an engine's file keeps until they are sent; further ones are "
        "dropped.",
    )
    max_backlog_age: Duration = Field(
        3600.0, gt=0, description="Time for which an engine's file keeps spans that cannot be sent."
    )


class DeadLettersConfig(Model):
    """States of dead letters, and their counts."""

    restore: Duration = Field(
        604_800.0,
        gt=0,
        description="Time for which a dropped dead letter can be restored. Then the daemon completes it in its Service "
        "Bus sub-queue; other brokers remove it by the retention of the topic.",
    )
    cache: Size = Field(
        268_435_456,
        ge=1_048_576,
        description="Bytes of the files in the state directory that save reading the dead letters again; the "
        "partitions that were not used for the longest time are removed.",
    )
    interval: Duration = Field(
        15.0,
        ge=1,
        description="Pause between two counts of the open dead letters by the daemon. A reader of the status causes "
        "one before its end.",
    )


class JobsConfig(Model):
    """Records of ended jobs."""

    keep: Duration = Field(
        2_592_000.0,
        ge=60,
        description="Time for which the record of an ended job is kept, with the result of each item.",
    )
    most: Integer = Field(
        1000, ge=1, le=10_000, description="Most ended jobs that an engine keeps; the oldest ones are removed first."
    )


class OpsConfig(Model):
    """Operation and monitoring of the daemon."""

    http: HttpConfig = Field(HttpConfig(), description="Health, metrics and the API over HTTP.")
    control: ControlConfig = Field(ControlConfig(), description="The control socket.")
    reload: ReloadConfig = Field(ReloadConfig(), description="Reload of the configuration.")
    log: LogConfig = Field(LogConfig(), description="Logging.")
    tracing: TracingConfig = Field(TracingConfig(), description="Traces.")
    secrets_dir: str | None = Field(
        None, min_length=1, description="Directory of the files for `${file:NAME}`; null: such references are errors."
    )
    state_dir: str = Field(
        ".bridge", min_length=1, description="Directory of the control sockets and of the audit, relative to this file."
    )
    audit: AuditConfig = Field(AuditConfig(), description="Audit of changes by people.")
    lineage: LineageConfig = Field(LineageConfig(), description="Index of messages, for `bridge trace`.")
    dead_letters: DeadLettersConfig = Field(DeadLettersConfig(), description="States of dead letters.")
    jobs: JobsConfig = Field(JobsConfig(), description="Records of ended jobs.")
    drain: Duration = Field(20.0, description="Time for a stop before it is forced.")
    stuck_after: Duration = Field(
        60.0, gt=0, description="Time without progress after which a source with waiting records is unready."
    )
    unready_on: tuple[Literal["failed_sagas", "failed_compensations"], ...] = Field(
        (),
        description="Sagas that make the daemon unready while they exist, on embedded engines: `failed_sagas` failed "
        "behind the point of no return, or could not be compensated; `failed_compensations` could not be compensated.",
    )


class FallbackConfig(Model):
    """End of a candidate by itself."""

    after: Integer = Field(AFTER, ge=AFTER, description="Fewest messages of the candidate before it can end.")
    failures: Share = Field(
        0.05,
        description="The candidate ends when more than this share of its messages were dead-lettered or quarantined, "
        "or started an instance that failed.",
    )


class RulesConfig(Model):
    """Candidate for the rules, which decides about a share of the ordering keys."""

    candidate: str | None = Field(
        None, min_length=1, description="File or directory of the candidate configuration, relative to this file."
    )
    share: Share = Field(0.05, description="Share of the ordering keys that the candidate decides about.")
    by: Literal["ordering_key"] = Field(
        "ordering_key", description="Value whose hash selects: the ordering key. Messages without one are not selected."
    )
    fallback: FallbackConfig = Field(FallbackConfig(), description="End of the candidate after failures.")


class EventsConfig(Model):
    """Lifecycle events: facts for people and other systems, without payload, as CloudEvents."""

    target: Name = Field(description="Target of `targets` to which the events are published.")
    kinds: tuple[EventKind, ...] = Field((*EventKind,), min_length=1, description="Kinds of events; all by default.")
    buffer: Integer = Field(
        1000, ge=1, le=1_000_000, description="Events in memory that are not published yet; further ones are dropped."
    )
    backlog: Integer = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Ends of instances that an embedded engine keeps until they are published; further ones are "
        "dropped.",
    )


def _workflows(value: Any) -> Any:
    return {"modules": value} if isinstance(value, list | tuple) else value


class BridgeConfig(Model):
    """Configuration of one bridge."""

    engines: dict[Name, EngineConfig] = Field(
        min_length=1, description="Engines by name; `engine: {...}` is short for an engine named `default`."
    )
    workflows: Annotated[WorkflowsConfig, BeforeValidator(_workflows)] = Field(
        WorkflowsConfig(), description="Workflows that run in this process; a list is short for `modules`."
    )
    vars: dict[str, Any] = Field(
        default_factory=dict, description="Constants for expressions and templates, available as `vars`."
    )
    brokers: dict[Name, BrokerConfig] = Field(min_length=1, description="Brokers by name.")
    registries: dict[Name, RegistryConfig] = Field(
        default_factory=dict, description="Schema registries by name, for the codecs `avro` and `protobuf`."
    )
    targets: dict[Name, TargetConfig] = Field(
        default_factory=dict, description="Logical destinations that workflows publish to, by name."
    )
    sources: dict[Name, SourceConfig] = Field(
        default_factory=dict, description="Streams of messages that are consumed, by name."
    )
    sagas: dict[Name, SagaConfig] = Field(
        default_factory=dict, description="Sagas without code, by name; a route starts one."
    )
    routes: tuple[RouteConfig, ...] = Field(
        (), description="Rules in the order of their evaluation (file name, then position); the first match wins."
    )
    events: EventsConfig | None = Field(None, description="Lifecycle events; null: none are published.")
    rules: RulesConfig = Field(RulesConfig(), description="Candidate for the rules.")
    ops: OpsConfig = Field(OpsConfig(), description="Settings for the operation of the daemon.")
    check: CheckConfig = Field(CheckConfig(), description="Settings of `bridge check`.")
