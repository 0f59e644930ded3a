"""A source pipeline on Service Bus: compiled rules, the SDK over a socket, an embedded engine, faults on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.engines.execution import CommandExecutor
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.execution import Target
from tests.pipeline.harness import Bench, Faults

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  bus: {{type: servicebus, connection_string: "{connection_string}", request_timeout: {request_timeout}}}
sources:
  orders:
    broker: bus
    {entity}
    codec: json
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
{source}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""


@asynccontextmanager
async def bus_bench(
    directory: Path,
    connection_string: str,
    entity: str = "queue: orders",
    *,
    source: str = "",
    request_timeout: str = "5s",
) -> AsyncIterator[Bench]:
    """Its source is not started. entity: a line of YAML. source: more YAML below the source, indented by four."""
    directory.mkdir(exist_ok=True)
    path = directory / "bridge.yaml"
    path.write_text(
        CONFIG.format(
            directory=directory,
            connection_string=connection_string,
            entity=entity,
            source=source,
            request_timeout=request_timeout,
        )
    )
    loaded = load_config([path])
    engine = build_engine(loaded, "default", host=True)
    await engine.start()
    broker = build_broker(loaded, "bus")
    await broker.start()
    faults = Faults(CommandExecutor(engine).execute, engine.probe)
    breaker = Breaker("default", faults.probe, first_delay=0.005)
    pipeline = build_source(loaded, "orders", {"bus": broker}, {"default": Target(faults.execute, breaker)})
    try:
        yield Bench(pipeline, broker, engine, faults, breaker)
    finally:
        await pipeline.drain(5)
        await breaker.stop()
        await broker.stop()
        await engine.stop()
        assert pipeline.ledger.balanced()
        assert pipeline.ledger.in_flight == 0


def outcomes(bench: Bench) -> dict[str, int]:
    """Those that occurred."""
    return {str(outcome): count for outcome, count in bench.source.ledger.outcomes.items() if count}
