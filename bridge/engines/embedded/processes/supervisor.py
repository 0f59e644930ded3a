"""Worker processes of one engine: started, watched, replaced when they end, and stopped in order. Needs Linux.

One thread per process starts it and waits for its end. Another one reads its channel.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.core.states import ProcessState
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import BrokenFrame, Item
from bridge.engines.embedded.processes.messages import ItemKind, json_body, parse_json
from bridge.engines.embedded.processes.reports import add_report
from bridge.engines.embedded.processes.settings import HEADER, SLOT, ProcessSettings
from bridge.engines.embedded.processes.stream import ProcessStream, take_results
from bridge.engines.embedded.worker import known_names
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.containment import WorkerStats
from bridge.engines.worker.setup import own_versions
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.system import slots
from bridge.system.processes import is_stopped

logger = logging.getLogger("bridge.engines.embedded.processes")

FIRST_PAUSE = 0.5
"""Seconds before the second restart of a process that ends without a result; doubled at each further one."""

MAX_PAUSE = 30.0
"""Longest pause in seconds."""

FROZEN_SECONDS = 10.0
"""Seconds without a report after which a process that a signal has frozen is killed and replaced."""

CHECK_SECONDS = 5.0
"""Seconds between two checks for frozen processes."""


@dataclass(frozen=True, slots=True)
class ProcessView:
    """Worker process at one moment. detail: reason of its last end; empty without one."""

    number: int
    pid: int | None
    state: ProcessState
    restarts: int
    detail: str
    sessions: int
    in_flight: int

    @property
    def runs(self) -> bool:
        """True while the process works."""
        return self.state is ProcessState.RUNNING


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of the work that one process holds.

    credits: number of turns, activities and entity batches. most_bytes: bytes of all of them. sessions: number and
    bytes of the orchestrations in memory.
    """

    credits: tuple[int, int, int]
    most_bytes: int
    sessions: tuple[int, int]


class WorkerProcesses:
    """Worker of an engine that runs in processes of its own.

    command: starts a process; gets the descriptors of its channel and of its slots as further arguments.
    workflows: names of the work that the processes accept.
    figures: called with the further counters of each report.
    """

    def __init__(
        self,
        database: Database,
        number: int,
        settings: ProcessSettings,
        limits: StreamLimits,
        workflows: Workflows,
        command: Sequence[str],
        monitor: CompatibilityMonitor | None = None,
        figures: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.limits = limits
        self.workflows = workflows
        self.command = command
        self.monitor = monitor
        self.figures = figures
        self.knows = known_names(workflows)
        self._stats = WorkerStats()
        self.ends: Counter[str] = Counter()
        """Number of unexpected ends, by cause."""
        self.is_stopping = threading.Event()
        self.has_started = threading.Event()
        """Set when all processes run, or when one could not be started."""
        self._processes = [_Process(self, index) for index in range(1, number + 1)]
        self._watch = threading.Thread(target=self._watch_frozen, name="worker-processes", daemon=True)

    def start(self) -> None:
        """Start the processes. They connect when their workflows are imported."""
        for process in self._processes:
            process.start()
        self._watch.start()

    def stop(self) -> None:
        """Stop all processes: they return the work that has not begun, and finish the rest. Idempotent."""
        self.is_stopping.set()
        self.has_started.set()
        for process in self._processes:
            process.request_stop()
        for process in self._processes:
            process.join()

    def kill(self) -> None:
        """Kill the processes that have not ended, after `stop` took too long. Their work is no loss."""
        for process in self._processes:
            process.kill()

    @property
    def stats(self) -> WorkerStats:
        """Work of all processes since the start."""
        return self._stats

    @property
    def session_count(self) -> int:
        """Number of orchestrations that the processes have in memory."""
        return sum(process.view().sessions for process in self._processes)

    @property
    def unfinished(self) -> tuple[int, int, int]:
        return (0, sum(view.in_flight for view in self.views()), 0)

    def check_started(self) -> None:
        """Set `has_started` where it is true."""
        if all(view.state is not ProcessState.STARTING for view in self.views()):
            self.has_started.set()

    def views(self) -> list[ProcessView]:
        return [process.view() for process in self._processes]

    def stuck(self) -> list[str]:
        """Reasons why the processes cannot work; empty while they can."""
        if self.is_stopping.is_set():
            return []
        views = self.views()
        reasons = [f"process {pid}: {reason}" for each in self._processes for pid, reason in each.stuck()]
        if not any(view.runs for view in views):
            details = {view.detail for view in views if view.detail}
            reasons.append("no worker process runs" + "".join(f"; {detail}" for detail in sorted(details)))
        return reasons

    def work_request(self) -> pb.GetWorkItemsRequest:
        """Request of a stream: credits, and names of the work."""
        turns, activities, entities = self.limits.credits
        request = pb.GetWorkItemsRequest(
            maxConcurrentOrchestrationWorkItems=turns,
            maxConcurrentActivityWorkItems=activities,
            maxConcurrentEntityWorkItems=entities,
        )
        filters = request.workItemFilters
        filters.SetInParent()
        versions = self.settings.versions
        filters.orchestrations.extend(
            pb.OrchestrationFilter(name=name, versions=own_versions(name, versions))
            for name in self.workflows.orchestrators
        )
        filters.activities.extend(
            pb.ActivityFilter(name=name, versions=own_versions(name, versions)) for name in self.workflows.activities
        )
        filters.entities.extend(pb.EntityFilter(name=name) for name in self.workflows.entities)
        return request

    def inspect(self, request: Any, response: Any) -> None:
        """Show a turn and its response to the monitor."""
        if self.monitor is not None and not response.requiresHistory:
            self.monitor.inspect_turn(request, response, self.workflows)

    def _watch_frozen(self) -> None:
        while not self.is_stopping.wait(CHECK_SECONDS):
            for process in self._processes:
                process.kill_frozen()


class _Process:
    """One worker process, and its successors."""

    def __init__(self, workers: WorkerProcesses, number: int) -> None:
        self._workers = workers
        self._number = number
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._stream: ProcessStream | None = None
        self._state = ProcessState.STARTING
        self._detail = ""
        self._restarts = 0
        self._fruitless = 0
        """Number of ends without a result since the last result."""
        self._reported = time.monotonic()
        self._stuck: Sequence[str] = ()
        self._is_frozen = False
        self._thread = threading.Thread(target=self._run, name=f"worker-process-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def view(self) -> ProcessView:
        child, stream = self._child, self._stream
        return ProcessView(
            self._number,
            None if child is None else child.pid,
            self._state,
            self._restarts,
            self._detail,
            0 if stream is None else stream.session_count,
            0 if stream is None else len(stream.leases),
        )

    def stuck(self) -> list[tuple[int | None, str]]:
        """Process id and reason of each pool of threads that cannot work."""
        child = self._child
        pid = None if child is None else child.pid
        silent = time.monotonic() - self._reported
        after = self._workers.settings.stuck_after
        if self._state is ProcessState.RUNNING and after is not None and silent >= after:
            return [(pid, f"has not reported for {silent:.0f} s")]
        return [(pid, reason) for reason in self._stuck]

    def request_stop(self) -> None:
        with self._lock:
            if self._stream is not None:
                # From now on the end of the process is no loss
                self._workers.database.retire(self._stream)
            if self._channel is not None:
                self._channel.send([(ItemKind.STOP, b"")])

    def kill(self) -> None:
        child = self._child
        if child is not None:
            child.kill()

    def kill_frozen(self) -> None:
        """Kill a process that a signal has frozen; its work goes on elsewhere, and does not count as lost."""
        child = self._child
        if child is None or child.returncode is not None or self._state is ProcessState.STOPPED:
            return
        if time.monotonic() - self._reported >= FROZEN_SECONDS and is_stopped(str(child.pid)):
            self._is_frozen = True
            child.kill()

    def _run(self) -> None:
        workers = self._workers
        stopping = workers.is_stopping
        while not stopping.is_set():
            try:
                reason = self._live()
            except Exception as error:
                logger.exception("A worker process cannot be started")
                reason = f"cannot be started: {error}"
                self._fruitless += 1
            if stopping.is_set():
                break
            workers.has_started.set()
            self._restarts += 1
            self._detail = reason
            self._state = ProcessState.RESTARTING
            pause = self._pause()
            logger.error(
                "Worker process %d: %s; it is replaced%s",
                self._number,
                reason,
                f" in {pause:.1f} s" if pause else "",
                extra={"action": "worker_process"},
            )
            stopping.wait(pause)
        self._state = ProcessState.STOPPED

    def _pause(self) -> float:
        """Seconds before the next start: none after a process that had results."""
        if self._fruitless < 2:
            return 0.0
        return min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self._fruitless - 2, 10)) * random.uniform(0.8, 1.2)  # noqa: S311 -- jitter

    def _live(self) -> str:
        """Start a process and return the reason of its end."""
        workers = self._workers
        self._state, self._stuck, self._is_frozen = ProcessState.STARTING, (), False
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("bridge-worker-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, slots.required_size(SLOT, HEADER))
            command = [*workers.command, str(theirs.fileno()), str(memory)]
            child = subprocess.Popen(  # noqa: S603 -- this interpreter, or the caller's command
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                process_group=0,  # a terminal's Ctrl-C reaches the daemon alone
            )
        except BaseException:
            ours.close()
            os.close(memory)
            raise
        finally:
            theirs.close()
        channel = Channel(ours)
        with self._lock:
            self._child, self._channel, self._reported = child, channel, time.monotonic()
        channel.send([(ItemKind.SETUP, json_body(workers.settings.document()))])
        if workers.is_stopping.is_set():
            channel.shut_down()
        failure: list[str] = []
        reader = threading.Thread(
            target=self._read, args=(channel, failure), name=f"worker-channel-{self._number}", daemon=True
        )
        try:
            reader.start()
            code = child.wait()
            # A process that the worker has started may hold the other end open
            channel.shut_down()
            reader.join()
            return self._ended(code, memory, failure)
        finally:
            child.kill()  # where no thread can be started; otherwise it has ended
            channel.close()
            os.close(memory)

    def _ended(self, code: int, memory: int, failure: Sequence[str]) -> str:
        """Give the work back, and return the reason of the end."""
        with self._lock:
            stream, self._stream, self._channel = self._stream, None, None
        had_results = stream is not None and stream.completed > 0
        self._fruitless = 0 if had_results else self._fruitless + 1
        if stream is not None:
            with mmap.mmap(memory, 0, access=mmap.ACCESS_READ) as content:
                ran = frozenset(entry.decode("ascii", "replace") for entry in slots.entries(content, SLOT, HEADER))
            stream.record_running(frozenset() if self._is_frozen else ran)
            self._workers.database.disconnect(stream)
        if self._is_frozen:
            cause, reason = "frozen", "a signal had frozen it, and it was killed"
        elif failure:
            cause, reason = "failed", failure[0]
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            cause, reason = name, f"ended by {name}"
        else:
            cause, reason = "exit", f"ended with exit code {code}"
        if not self._workers.is_stopping.is_set():
            self._workers.ends[cause] += 1
        return reason

    def _read(self, channel: Channel, failure: list[str]) -> None:
        """Take what the process sends, until it closes the channel."""
        try:
            while (items := channel.receive()) is not None:
                self._take(channel, items, failure)
        except (BrokenFrame, DecodeError, struct.error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            failure.append(f"sent an item that cannot be read ({error})")
            self.kill()
        except Exception:
            logger.exception("The channel of a worker process failed")
            failure.append("its channel failed")
            self.kill()

    def _take(self, channel: Channel, items: Sequence[Item], failure: list[str]) -> None:
        workers, stream = self._workers, self._stream
        if stream is not None:
            take_results(workers.database, stream, items)
        for kind, body in items:
            if kind == ItemKind.REPORT:
                document = parse_json(body)
                add_report(document, workers.stats)
                workers.figures(document["figures"])
                self._stuck = tuple(str(reason)[:300] for reason in document["stuck"])
                self._reported = time.monotonic()
            elif kind == ItemKind.READY:
                self._connect(channel)
            elif kind == ItemKind.FAILED:
                failure.append(f"cannot start: {str(parse_json(body).get('reason'))[:500]}")

    def _connect(self, channel: Channel) -> None:
        """Give the process work."""
        workers = self._workers
        stream = ProcessStream(
            channel,
            workers.work_request(),
            owners=workers.database.hub.dispatcher.owners,
            sessions=workers.limits.sessions,
            most_bytes=workers.limits.most_bytes,
            knows=workers.knows,
            recalls=True,
            inspect=workers.inspect,
        )
        self._reported = time.monotonic()
        with self._lock:
            if workers.is_stopping.is_set():
                return
            self._stream = stream
            with suppress(Rejection):  # the engine is stopping
                workers.database.connect(stream)
        self._state = ProcessState.RUNNING
        workers.check_started()
        logger.info("Worker process %d runs", self._number, extra={"action": "worker_process"})


def default_command(module: str) -> list[str]:
    """Command that runs a module in a new interpreter of this installation."""
    # Without the current directory: its files could take the names of modules
    return [sys.executable, "-P", "-m", module]
