"""Run every kill against both variants and write the table: `python -m tests.prove [NAME ...]`.

The exit code is 1 when the bridge lost, doubled or reordered a message. With names, only those kills run and only their
rows change. Rows of kills without such a fault are dated; rows on Kafka only when a real broker ran.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.kafka.server import ThreadedServer
from tests.kafka.shared import shared_broker
from tests.prove import dates, table
from tests.prove.kills import KILLS, Kill
from tests.prove.on_kafka import KafkaTopics
from tests.prove.on_servicebus import ServiceBusQueue
from tests.prove.proofs import PROOFS, digests
from tests.prove.score import Score
from tests.prove.stage import Broker, Variant, stage

VARIANTS: tuple[Variant, ...] = ("bridge", "hand-written")


@contextmanager
def kafka() -> Iterator[tuple[str, str]]:
    """Yield the address and the description of a Kafka broker."""
    if (missing := dates.missing_kafka()) is not None:
        print(f"{missing}: the small test server stands in for Kafka", flush=True)
        server = ThreadedServer()
        yield server.bootstrap, "the small Kafka-protocol server of the tests"
        server.stop()
        return
    with shared_broker() as address:
        yield address, "Apache Kafka, one node"


async def tried(kill: Kill, variant: Variant, broker: Broker) -> Score:
    with tempfile.TemporaryDirectory(prefix="prove-") as directory:
        async with stage(Path(directory), broker, variant) as it:
            await kill.run(it)
            return await it.score(kill.quiet)


def main(names: list[str]) -> int:
    chosen = [kill for kill in KILLS if not names or kill.name in names]
    if not chosen:
        sys.exit(f"known: {', '.join(kill.name for kill in KILLS)}")
    code = {proof.name: digests(proof.covers) for proof in PROOFS}
    scores: dict[str, dict[str, Score]] = {}
    makers: dict[str, Callable[[], Broker]] = {"servicebus": ServiceBusQueue}
    what = None
    with ExitStack() as stack:
        if any(kill.broker == "kafka" for kill in chosen):
            bootstrap, what = stack.enter_context(kafka())
            makers["kafka"] = partial(KafkaTopics, bootstrap)
        for kill in chosen:
            for variant in VARIANTS:
                began = time.monotonic()
                found = asyncio.run(tried(kill, variant, makers[kill.broker]()))
                scores.setdefault(kill.name, {})[variant] = found
                print(f"{kill.name:<18} {variant:<8} {found} ({time.monotonic() - began:.0f} s)", flush=True)
    table.save(table.record(what, scores))
    clean = [kill for kill in chosen if scores[kill.name]["bridge"].clean]
    dated = [kill for kill in clean if kill.broker != "kafka" or dates.missing_kafka() is None]
    dates.recorded([f"kills/{kill.name}" for kill in dated], code)
    return 0 if len(clean) == len(scores) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
