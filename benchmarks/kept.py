"""Cost of many instances on the embedded engine: BENCH_FINISHED finished ones (100,000) and a tenth of running ones."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
from durabletask import task

from benchmarks.engine import IN_FLIGHT, PAYLOAD, _client, _many, echo, one_activity, quiet
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database

STEP = 20_000
ORCHESTRATIONS = 3000


def waits(ctx: task.OrchestrationContext, value: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.wait_for_external_event("go"))


def run() -> dict[str, float]:
    """Figures of a file with many instances against an empty one: the first after opening it, and those after them."""
    finished = int(os.environ.get("BENCH_FINISHED", "100000"))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        full = Path(directory) / "full.db"
        asyncio.run(_examples(full))
        _multiply(full, finished, finished // 10)
        rounds = [(_measured(Path(directory) / f"empty-{number}.db"), _measured(full)) for number in range(3)]
        without = {name: statistics.median(each[0][name] for each in rounds) for name in rounds[0][0]}
        kept = {name: statistics.median(each[1][name] for each in rounds) for name in rounds[0][1]}
        return {
            "kept_instances": finished + finished // 10,
            "kept_file_gb": full.stat().st_size / 1e9,
            "kept_start_seconds": kept["start"],
            "kept_resident_mb": kept["resident"],
            "kept_first_ratio": kept["first"] / without["first"],
            "kept_later_ratio": kept["later"] / without["later"],
        }


async def _examples(path: Path) -> None:
    """Create a finished and a waiting instance, as the engine writes them."""
    database = Database(path)
    database.start()
    worker = DirectWorker(database, logger=quiet())
    for orchestrator in (one_activity, waits):
        worker.add_orchestrator(orchestrator)
    worker.add_activity(echo)
    worker.start()
    client = _client(database)
    done = await client.schedule_new_orchestration("one_activity", input=PAYLOAD)
    await client.wait_for_orchestration_completion(done, timeout=30)
    waiting = await client.schedule_new_orchestration("waits", input=PAYLOAD)
    await client.wait_for_orchestration_start(waiting, timeout=30)
    worker.stop()
    database.stop()


def _multiply(path: Path, finished: int, running: int) -> None:
    """Copy both instances under random ids like those of the SDK. Running ones are spread among the finished ones."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("cache_size=-1000000", "synchronous=OFF", "wal_autocheckpoint=20000"):
        connection.execute(f"PRAGMA {pragma}")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(instances)")]
    done, waiting = (row[0] for row in connection.execute("SELECT key FROM instances ORDER BY key"))
    last = waiting + 1
    copied = ", ".join(columns[2:])
    series = "WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c LIMIT ?)"
    for start in range(0, finished, STEP):
        part = min(STEP, finished - start)
        for template, count in ((done, part), (waiting, part * running // finished)):
            connection.execute("BEGIN")
            connection.execute(
                f"{series} INSERT INTO instances ({', '.join(columns)})"
                f" SELECT ? + x, lower(hex(randomblob(16))), {copied} FROM c, instances WHERE key = ?",
                (count, last, template),
            )
            connection.execute(
                f"{series} INSERT INTO history SELECT ? + x, chunk, events FROM c, history WHERE key = ?",
                (count, last, template),
            )
            connection.execute("COMMIT")
            last += count
    # As if they had been started and finished a millisecond after one another
    connection.execute(
        "UPDATE instances SET created_at = created_at + (key - ?) * 1000, finished_at = finished_at + (key - ?) * 1000",
        (last, last),
    )
    connection.close()


def _measured(path: Path) -> dict[str, float]:
    """Measure a file in a separate process, after removing it from the operating system's cache."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.kept", str(path)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(ran.stdout)
    return found


async def _measure(path: Path) -> dict[str, float]:
    began = time.perf_counter()
    database = Database(path)
    database.start()
    figures = {"start": time.perf_counter() - began}
    worker = DirectWorker(database, logger=quiet())
    worker.add_orchestrator(one_activity)
    worker.add_activity(echo)
    worker.start()
    client = _client(database)

    async def one() -> None:
        instance_id = await client.schedule_new_orchestration("one_activity", input=PAYLOAD)
        await client.wait_for_orchestration_completion(instance_id, timeout=60)

    for name in ("first", "later"):
        figures[name] = await _many(ORCHESTRATIONS, IN_FLIGHT, one)
    # Not the peak of getrusage, which includes that of the parent process
    figures["resident"] = psutil.Process().memory_info().rss / 1e6
    worker.stop()
    database.stop()
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(Path(sys.argv[1])))))
