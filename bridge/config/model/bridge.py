"""The configuration as a whole, and its `ops` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bridge.config.model.brokers import BrokerConfig, TargetConfig
from bridge.config.model.engines import EngineConfig, WorkflowsConfig
from bridge.config.model.registries import RegistryConfig
from bridge.config.model.routes import RouteConfig
from bridge.config.model.sagas import SagaConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.model.tls import ServerTlsConfig
from bridge.config.model.types import Duration, Integer, Model, Name, Size


class ConnectionsConfig(Model):
    """Limits of connections."""

    max_connections: Integer = Field(
        256, ge=1, description="Connections at once. For one more the one that was idle longest is closed."
    )
    header_timeout: Duration = Field(
        10.0, gt=0, description="Time from the connection, or a request's first byte, to the end of its headers."
    )
    idle_timeout: Duration = Field(75.0, gt=0, description="Time between two requests of a connection.")


class ControlConfig(ConnectionsConfig):
    """The control socket."""

    max_connections: Integer = Field(
        64, ge=1, description="Connections at once. For one more the one that was idle longest is closed."
    )


class HttpConfig(ConnectionsConfig):
    """Health and metrics over HTTP. Read-only, and on loopback by default."""

    host: str = Field("127.0.0.1", min_length=1, pattern=r"^[^\s/@]*$", description="Address to listen on.")
    port: Integer = Field(
        8099, ge=0, le=65535, description="0 picks a free port; `bridge worker` does so unless this is set."
    )
    allowed_hosts: tuple[str, ...] = Field((), description="Host headers taken beside localhost and the bound address.")
    tls: ServerTlsConfig | None = Field(None, description="TLS; null: none.")


class LogConfig(Model):
    """Log of the daemon on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe records to write.")
    format: Literal["auto", "human", "json"] = Field("auto", description="auto: human on a terminal, else JSON.")
    libraries: Literal["info", "warning", "error"] = Field(
        "warning",
        description="The same for libraries and other code than the bridge's and the workflow modules'. Debug records "
        "of libraries hold passwords and payloads, so they are never written.",
    )


class AuditConfig(Model):
    """Audit files on disk, for each embedded engine and for the state directory."""

    max_bytes: Size = Field(4194304, ge=65536, description="Size from which on a file is put aside.")
    files: Integer = Field(8, ge=1, le=1000, description="Files that are kept; the oldest goes first.")


class OpsConfig(Model):
    """Operation and monitoring of the daemon."""

    http: HttpConfig = Field(HttpConfig(), description="Health and metrics over HTTP.")
    control: ControlConfig = Field(ControlConfig(), description="The control socket.")
    log: LogConfig = Field(LogConfig(), description="Logging.")
    secrets_dir: str | None = Field(
        None, min_length=1, description="Directory below which `${file:NAME}` reads; null: such references are refused."
    )
    state_dir: str = Field(
        ".bridge", min_length=1, description="Directory of the control sockets and of the audit, relative to this file."
    )
    audit: AuditConfig = Field(AuditConfig(), description="The trace that changes by people leave.")
    drain: Duration = Field(20.0, description="How long a stop may take before it is forced.")
    stuck_after: Duration = Field(60.0, gt=0, description="A source that waits this long without progress is unready.")


def _workflows(value: Any) -> Any:
    return {"modules": value} if isinstance(value, list | tuple) else value


class BridgeConfig(Model):
    """Configuration of one bridge."""

    engines: dict[Name, EngineConfig] = Field(
        min_length=1, description="Engines by name; `engine: {...}` is short for one that is named `default`."
    )
    workflows: Annotated[WorkflowsConfig, BeforeValidator(_workflows)] = Field(
        WorkflowsConfig(), description="Workflows that run here; a list is short for `modules`."
    )
    vars: dict[str, Any] = Field(
        default_factory=dict, description="Constants for expressions and templates, as `vars`."
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
        (), description="Rules, tried in order (file name, then position); the first that matches wins."
    )
    ops: OpsConfig = Field(OpsConfig(), description="How the daemon is run and watched.")
