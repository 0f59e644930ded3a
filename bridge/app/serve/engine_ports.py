"""Engines as the pipelines of a daemon use them, with the executors that each command passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

from bridge.app.serve import waiting
from bridge.app.tracing import within_trace
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.commands.answers import AnswerExecutor, AnswerKeys
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.ops.tracing import Tracing
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort, Execute, MovingPort, Restart
from bridge.waiting.totals import WaitingTotals


class EnginePorts:
    """Ports of all engines.

    targets: engines as the pipelines use them. early: executors of commands that may wait. keys: keys of answers.
    """

    def __init__(
        self,
        loaded: Loaded,
        engines: Mapping[str, Engine],
        breakers: Mapping[str, Breaker],
        now: Callable[[], datetime],
        totals: Mapping[str, WaitingTotals],
        candidate: Loaded | None,
        *,
        traces: Tracing | None,
    ) -> None:
        """Create the ports. Requires a running event loop. now, totals, candidate: as for `early_executor`."""
        loop = asyncio.get_running_loop()
        config = loaded.config.engines
        self._breakers = breakers
        self._traces = traces
        self.keys = {
            name: AnswerKeys(engine, loop, config[name].answers.signatures) for name, engine in engines.items()
        }
        self.early = {
            name: waiting.early_executor(loaded, engine, now, totals[name], candidate)
            for name, engine in engines.items()
        }
        self._answers = {
            name: AnswerExecutor(
                engine,
                self.keys[name],
                self.early[name],
                self.early[name].store.store,
                config[name].answers.signatures,
                now,
            )
            for name, engine in engines.items()
        }
        self.targets = {name: self._target(engine) for name, engine in engines.items()}

    def _target(self, engine: Engine) -> EnginePort:
        early, answers = self.early[engine.name], self._answers[engine.name]
        execute: Execute = answers.execute
        found: Execute = answers.execute_found
        restart: Restart = early.restart
        if self._traces is not None and not isinstance(engine, EmbeddedEngine):
            execute, found, restart = within_trace(execute), within_trace(found), within_trace(restart)
        moving = MovingPort(early.read_state, execute, found, restart, early.waits, early.notify)
        return EnginePort(execute, self._breakers[engine.name], answers.store_early, moving)

    def answer_results(self) -> dict[str, dict[str, int]]:
        """Numbers of checked answers by result, for each engine."""
        return {name: dict(checked.results) for name, checked in self._answers.items()}
