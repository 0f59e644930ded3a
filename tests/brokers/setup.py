"""Source pipeline on the broker of a configuration: compiled rules, an embedded engine, injected faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from tests.kit.pipeline import Faults, PipelineFixture, is_balanced


@asynccontextmanager
async def broker_setup(directory: Path, config: str, name: str) -> AsyncIterator[PipelineFixture]:
    """Yield a fixture for a broker; its source `orders` is not started.

    config: YAML. name: of the broker in the YAML.
    """
    directory.mkdir(exist_ok=True)
    path = directory / "bridge.yaml"
    path.write_text(config)
    loaded = load_config([path])
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    broker = build_broker(loaded, name)
    await broker.start()
    faults = Faults(CommandRunner(engine).execute, engine.probe)
    breaker = Breaker("default", faults.probe, first_delay=0.005)
    pipeline = build_source(loaded, "orders", {name: broker}, {"default": EnginePort(faults.execute, breaker)})
    try:
        yield PipelineFixture(pipeline, broker, engine, faults, breaker)
    finally:
        await pipeline.drain(5)
        await breaker.stop()
        await broker.stop()
        await engine.stop()
        assert is_balanced(pipeline.ledger)
        assert pipeline.ledger.in_flight == 0
