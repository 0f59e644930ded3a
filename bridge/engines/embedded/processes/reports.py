"""Reports of a worker process: what it counted since its last report, and pools of threads that cannot work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from bridge.core.histogram import LONG_SECONDS, Exemplar, Histogram
from bridge.engines.embedded.pools import PooledWorker
from bridge.engines.embedded.processes.framing import Item
from bridge.engines.embedded.processes.messages import ItemKind, json_body
from bridge.engines.worker.containment import WorkerStats

PERIOD = 1.0
"""Seconds between two reports."""


class Reporter:
    """Thread that reports the figures of a worker. figures: further counters of the process, by name."""

    def __init__(
        self, worker: PooledWorker, figures: Callable[[], Mapping[str, int]], put: Callable[[Item], None]
    ) -> None:
        self._worker = worker
        self._figures = figures
        self._put = put
        self._reported: Mapping[str, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send the last report, and stop."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD):
            self._report()
        self._report()

    def _report(self) -> None:
        taken = self._worker.stats.take()
        figures = self._figures()
        counted = {name: value - self._reported.get(name, 0) for name, value in figures.items()}
        self._reported = dict(figures)
        document: dict[str, Any] = {
            "activities": [[*key, each.counts, each.total, _examples(each)] for key, each in taken.activities.items()],
            "replays": taken.replays,
            "figures": {name: value for name, value in counted.items() if value},
            "stuck": self._worker.stuck(),
        }
        self._put((ItemKind.REPORT, json_body(document)))


def _examples(histogram: Histogram) -> list[list[Any]]:
    return [[index, *example] for index, example in (histogram.exemplars or {}).items()]


def add_report(document: Mapping[str, Any], stats: WorkerStats) -> None:
    """Add the figures of a report. Raises: KeyError, TypeError, ValueError."""
    for name, result, counts, total, examples in document["activities"]:
        exemplars = {int(index): Exemplar(*example) for index, *example in examples}
        stats.add(name, result, Histogram.restored(LONG_SECONDS, counts, float(total), exemplars))
    stats.replay(int(document["replays"]))
