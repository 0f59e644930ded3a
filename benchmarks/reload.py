"""Reload under load: latency of messages while the configuration is reloaded, over that without reloads.

`p99_ratio`, `p50_ratio`: latency from the publication to the accepted command, median over the rounds. `noise`:
relative half-width of the middle half of the p99 without reloads. `reload_seconds`: duration of a reload. `lost`:
messages that were not executed.

One daemon with an embedded engine, the local broker and ROUTES rules gets RATE messages a second. Batches with and
without a reload take turns. A reload reads, checks and compiles the whole configuration, and replaces all rules.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import structlog

RATE = 200
ROUTES = 40
SECONDS = 8.0
"""Length of a batch, with one reload in it."""
ROUNDS = 8

CONFIG = """
engine: {{type: embedded}}
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
vars: {{version: {version}}}
routes:
{others}
  - name: start
    from: orders
    when: payload.total > 0.0 && vars.version >= 0
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
ops: {{http: {{port: 0}}}}
"""
_OTHER = '  - {{name: other-{0}, from: orders, when: "payload.total < -{0}.0 && vars.version > 0", ignore: {{}}}}'


class _Bench:
    def __init__(self, directory: Path) -> None:
        from bridge.app.composition import load_config
        from bridge.app.serve.daemon import Daemon
        from bridge.app.serve.reload.reloader import Files, Reloader

        self._file = directory / "bridge.yaml"
        self._version = 0
        self.write()
        self.daemon = Daemon(load_config([self._file]), worker=False)
        self.reloader = Reloader(self.daemon, Files([self._file]))
        self.done: dict[str, float] = {}
        for name, port in list(self.daemon.targets.items()):
            self.daemon.targets[name] = replace(port, execute=self._timed(port.execute))
        # The rules of the start go through the measured port, too
        for source in self.daemon.sources:
            source.rules.replace(replace(source.rules.current, engines=dict(self.daemon.targets)))
        self._sent = 0

    def _timed(self, execute: Any) -> Any:
        async def timed(command: Any, origin: Any) -> None:
            await execute(command, origin)
            self.done[command.instance_id] = time.perf_counter()

        return timed

    def write(self) -> None:
        self._version += 1
        others = "\n".join(_OTHER.format(number) for number in range(ROUTES - 1))
        self._file.write_text(CONFIG.format(version=self._version, others=others))

    async def batch(self, *, reload: bool) -> tuple[list[float], float]:
        """Latencies of the messages of a batch, and the duration of its reload."""
        from bridge.core.message import Message

        sent: dict[str, float] = {}
        reloading: asyncio.Task[float] | None = None
        start = time.perf_counter()
        for number in range(int(RATE * SECONDS)):
            await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
            if reload and number == int(RATE * SECONDS / 4):
                self.write()
                reloading = asyncio.create_task(self._reload())
            body = orjson.dumps({"id": self._sent, "total": 5.0})
            name = f"order-{self._sent}"
            self._sent += 1
            sent[name] = time.perf_counter()
            await self.daemon.brokers["local"].publish("orders", [Message(body, name.encode())])
        end = time.perf_counter() + 20
        while len(self.done) < len(sent) and time.perf_counter() < end:  # noqa: ASYNC110 -- a dict has no notification
            await asyncio.sleep(0.01)
        took = 0.0 if reloading is None else await reloading
        found = [self.done[name] - at for name, at in sent.items() if name in self.done]
        self.done.clear()
        return found, took

    async def _reload(self) -> float:
        began = time.perf_counter()
        answer = await self.reloader.reload("benchmark")
        assert answer["result"] == "reloaded", answer["problems"]
        return time.perf_counter() - began


def _p(latencies: list[float], percent: int) -> float:
    return statistics.quantiles(latencies, n=100)[percent - 1]


async def _measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        bench = _Bench(Path(directory))
        await bench.daemon.start()
        try:
            await bench.batch(reload=True)  # warm up
            still: list[list[float]] = []
            moved: list[list[float]] = []
            took = []
            for number in range(ROUNDS):
                for reload in (False, True) if number % 2 else (True, False):
                    found, seconds = await bench.batch(reload=reload)
                    (moved if reload else still).append(found)
                    if reload:
                        took.append(seconds)
            tails = [_p(each, 99) for each in still]
            quarters = statistics.quantiles(tails, n=4)
            return {
                "p99_ratio": statistics.median(
                    _p(one, 99) / _p(other, 99) for one, other in zip(moved, still, strict=True)
                ),
                "p50_ratio": statistics.median(
                    _p(one, 50) / _p(other, 50) for one, other in zip(moved, still, strict=True)
                ),
                "noise": (quarters[2] - quarters[0]) / 2 / statistics.median(tails),
                "reload_seconds": statistics.median(took),
                "p99_milliseconds": 1000 * statistics.median(tails),
                "lost": float(2 * ROUNDS * int(RATE * SECONDS) - sum(map(len, still + moved))),
            }
        finally:
            await bench.reloader.stop(5.0)
            await bench.daemon.stop(10.0)


def run() -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(_measure())
