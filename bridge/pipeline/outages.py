"""Outages of an engine or the broker, which hold a whole source."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from bridge.core.errors import BridgeError
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.execution import Target
from bridge.pipeline.flow_control import FlowControl
from bridge.pipeline.lanes import Lanes

log = structlog.get_logger("bridge.source")


class Outages:
    """Hold a source's flow control during outages, and release its held lanes afterwards."""

    def __init__(self, source: str, retry: RetryPolicy, gate: FlowControl, lanes: Lanes) -> None:
        self._source = source
        self._retry = retry
        self._gate = gate
        self._lanes = lanes
        self._failures = 0

    def watch(self, engines: Mapping[str, Target]) -> None:
        """Subscribe to each engine's outages."""
        for name, engine in engines.items():
            engine.breaker.subscribe(lambda name=name, engine=engine: self._engine_changed(name, engine))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            self._engine_changed(name, engine)

    def broker_away(self, error: BridgeError) -> None:
        """Hold the source: the broker did not accept a settlement. Settlements are tried again after a delay."""
        if "broker" not in self._gate.pause_reasons:
            self._failures += 1
            self._gate.hold("broker", str(error))
            log.warning("broker away", action="hold", source=self._source, detail=str(error))
            asyncio.get_running_loop().call_later(self._retry.delay(self._failures), self.broker_back)

    def broker_back(self) -> None:
        """Try again the settlements that waited for the broker."""
        self._gate.release("broker")
        self._lanes.release()

    def broker_recovered(self) -> None:
        """Reset the delay: the broker accepted a settlement."""
        self._failures = 0

    def _engine_changed(self, name: str, engine: Target) -> None:
        if engine.breaker.error is not None:
            self._gate.hold(f"engine {name}", str(engine.breaker.error))
        else:
            self._gate.release(f"engine {name}")
            self._lanes.release()
