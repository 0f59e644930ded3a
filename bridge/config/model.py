"""The whole configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bridge.config.brokers import BrokerConfig, TargetConfig
from bridge.config.engines import EngineConfig, WorkflowsConfig
from bridge.config.routes import RouteConfig
from bridge.config.sources import SourceConfig
from bridge.config.types import Duration, Model, Name


class HttpConfig(Model):
    """Health and metrics over HTTP. Read-only; loopback unless told otherwise."""

    host: str = "127.0.0.1"
    port: int = Field(8099, ge=0, le=65535, description="0 picks a free port.")
    allowed_hosts: tuple[str, ...] = Field((), description="Host headers taken beside localhost and the bound address.")


class LogConfig(Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = Field("auto", description="auto: human on a terminal, else JSON.")


class OpsConfig(Model):
    """How the daemon is run and watched."""

    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    drain: Duration = Field(20.0, description="How long a stop may take before it is forced.")
    stuck_after: Duration = Field(60.0, description="A source that waits this long without progress is unready.")


def _workflows(value: Any) -> Any:
    return {"modules": value} if isinstance(value, list | tuple) else value


class BridgeConfig(Model):
    """One bridge."""

    engines: dict[Name, EngineConfig] = Field(min_length=1)
    workflows: Annotated[WorkflowsConfig, BeforeValidator(_workflows)] = WorkflowsConfig()
    vars: dict[str, Any] = Field(default_factory=dict)
    brokers: dict[Name, BrokerConfig] = Field(min_length=1)
    targets: dict[Name, TargetConfig] = Field(default_factory=dict)
    sources: dict[Name, SourceConfig] = Field(default_factory=dict)
    routes: tuple[RouteConfig, ...] = ()
    ops: OpsConfig = OpsConfig()
