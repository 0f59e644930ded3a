"""Source pipeline on Service Bus: compiled rules, the SDK over a socket, an embedded engine, injected faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.brokers.setup import broker_setup
from tests.kit.pipeline import PipelineFixture

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
async def bus_setup(
    directory: Path,
    connection_string: str,
    entity: str = "queue: orders",
    *,
    source: str = "",
    request_timeout: str = "5s",
) -> AsyncIterator[PipelineFixture]:
    """Yield a fixture whose source is not started.

    entity: a line of YAML. source: more YAML below the source, indented by four.
    """
    config = CONFIG.format(
        directory=directory,
        connection_string=connection_string,
        entity=entity,
        source=source,
        request_timeout=request_timeout,
    )
    async with broker_setup(directory, config, "bus") as setup:
        yield setup


def outcomes(setup: PipelineFixture) -> dict[str, int]:
    """Return the outcomes that occurred, with their counts."""
    return {str(outcome): count for outcome, count in setup.source.ledger.outcomes.items() if count}
