"""Processes of the benchmark of remote workers: `engine DIRECTORY`, `floor NUMBER` and `worker KIND ADDRESS`.

Each prints one line when it is ready, and answers each line of its input with a line of figures, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc.aio
from durabletask.azuremanaged.worker import DurableTaskSchedulerWorker
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import (
    TaskHubSidecarServiceServicer,
    add_TaskHubSidecarServiceServicer_to_server,
)

from benchmarks.engine import quiet
from benchmarks.workers import echo, five_activities, one_activity
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.protocol.hubs import DEFAULT, HubsService, TaskHubs
from bridge.sqlite_engine.protocol.server import Server
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter

Figures = Callable[[str], Mapping[str, float]]


class Child:
    """Process of the benchmark."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks._remote", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._read()

    def ask(self, question: str = "") -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Start a process, and end it at the end of the block."""
    made = Child(*arguments)
    try:
        yield made
    finally:
        made.close()


def serve(ready: object, figures: Figures) -> None:
    """Answer the questions of the parent process until it ends."""
    print(ready, flush=True)
    for line in sys.stdin:
        found = figures(line.strip())  # first: it may wait for the end of the work that `cpu` measures
        print(json.dumps({"cpu": time.process_time(), **found}), flush=True)


def processor_time(thread: threading.Thread) -> float:
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def engine(directory: str) -> None:
    """Serve an engine as `bridge engine` does. A number as question waits until as many instances have ended."""
    hubs = TaskHubs(Path(directory))
    hubs.start()
    hub = hubs.get(DEFAULT)
    server = Server(HubsService(hubs), ["127.0.0.1:0"])
    server.start()
    ended = 0
    changed = threading.Condition()

    def count(ends: Any) -> None:
        nonlocal ended
        with changed:
            ended += len(list(ends))
            changed.notify_all()

    hub.hub.watch_finishes(count)

    def figures(question: str) -> Mapping[str, float]:
        if question:
            with changed:
                assert changed.wait_for(lambda: ended >= int(question), 300)
        writer = hub.writer
        return {
            "writer_cpu": processor_time(writer._thread),
            "commits": writer.commits,
            "operations": writer.operations,
            "ended": ended,
        }

    serve(server.ports[0], figures)


class Floor(TaskHubSidecarServiceServicer):
    """Servicer that streams items, 100 of them in flight, and takes their results."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._room = asyncio.Semaphore(100)

    async def GetWorkItems(self, request: Any, context: Any) -> AsyncIterator[pb.WorkItem]:  # noqa: N802 -- the protocol's name
        item = pb.WorkItem()
        item.activityRequest.name, item.activityRequest.input.value = "echo", "x" * 1000
        for each in range(self._number):
            await self._room.acquire()
            item.completionToken = str(each)
            yield item

    async def CompleteActivityTask(self, request: Any, context: Any) -> pb.CompleteTaskResponse:  # noqa: N802 -- the protocol's name
        self._room.release()
        return pb.CompleteTaskResponse()


def floor(number: str) -> None:
    """Serve handlers that do nothing."""
    bound: Future[int] = Future()

    async def run() -> None:
        server = grpc.aio.server()
        add_TaskHubSidecarServiceServicer_to_server(Floor(int(number)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        bound.set_result(port)
        await server.wait_for_termination()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    serve(bound.result(), lambda _: {})


def worker(kind: str, address: str) -> None:
    """Run a worker: the SDK's as it is (`sdk`), or that of the bridge with a setting of `dispatch`."""
    if kind == "sdk":
        own: Any = DurableTaskSchedulerWorker(
            host_address=address, taskhub=DEFAULT, token_credential=None, secure_channel=False, logger=quiet()
        )
        for orchestrator in (one_activity, five_activities):
            own.add_orchestrator(orchestrator)
        own.add_activity(echo)
        own.use_work_item_filters()
    else:
        settings = {"type": "scheduler", "endpoint": f"http://{address}", "credential": "none", "dispatch": kind}
        remote = SchedulerEngine("default", SchedulerEngineConfig.model_validate(settings))
        threading.Thread(target=lambda: asyncio.run(_started(remote)), daemon=True).start()
        while remote._client is None:
            time.sleep(0.01)
        workflows = Workflows({"one_activity": one_activity, "five_activities": five_activities}, {"echo": echo})
        own = remote.worker(workflows, DataConverter())
    own.start()
    serve("ready", lambda _: {})


async def _started(remote: SchedulerEngine) -> None:
    await remote.start()
    await asyncio.Event().wait()


def main(kind: str, *arguments: str) -> None:
    logging.getLogger("bridge").setLevel(logging.ERROR)
    tune_memory()
    if kind == "engine":
        engine(*arguments)
    elif kind == "floor":
        floor(*arguments)
    else:
        worker(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
