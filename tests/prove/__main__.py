"""Runs every kill against both variants and writes the table: `python -m tests.prove [NAME ...]`.

Exit code 1 when the bridge lost, doubled or reordered anything. With names only those are run, and their rows renewed.
Rows of kills that the bridge survived on a real broker are dated.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.server import ThreadedServer
from tests.kafka.shared import shared_broker
from tests.prove import dates, table
from tests.prove.kills import KILLS, Kill
from tests.prove.proofs import PROOFS, digests
from tests.prove.score import Score
from tests.prove.stage import Variant, stage

VARIANTS: tuple[Variant, ...] = ("bridge", "by hand")


@contextmanager
def broker() -> Iterator[tuple[str, str]]:
    """Address, and what it is."""
    if (missing := dates.missing_kafka()) is not None:
        print(f"{missing}: the small test server stands in for Kafka", flush=True)
        server = ThreadedServer()
        yield server.bootstrap, "the small Kafka-protocol server of the tests"
        server.stop()
        return
    with shared_broker() as address:
        yield address, "Apache Kafka, one node"


async def tried(kill: Kill, variant: Variant, bootstrap: str) -> Score:
    with tempfile.TemporaryDirectory(prefix="prove-") as directory:
        async with stage(Path(directory), bootstrap, variant) as it:
            await kill.run(it)
            return await it.score(kill.quiet)


def main(names: list[str]) -> int:
    chosen = [kill for kill in KILLS if not names or kill.name in names]
    if not chosen:
        sys.exit(f"known: {', '.join(kill.name for kill in KILLS)}")
    code = {proof.name: digests(proof.covers) for proof in PROOFS}
    scores: dict[str, dict[str, Score]] = {}
    with broker() as (bootstrap, what):
        for kill in chosen:
            for variant in VARIANTS:
                began = time.monotonic()
                found = asyncio.run(tried(kill, variant, bootstrap))
                scores.setdefault(kill.name, {})[variant] = found
                print(f"{kill.name:<18} {variant:<8} {found} ({time.monotonic() - began:.0f} s)", flush=True)
    table.save(table.record(what, scores))
    clean = [name for name, each in scores.items() if each["bridge"].clean]
    if dates.missing_kafka() is None:
        dates.recorded([f"kills/{name}" for name in clean], code)
    return 0 if len(clean) == len(scores) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
