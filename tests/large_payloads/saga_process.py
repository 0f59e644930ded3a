"""Process that runs a saga with large values: `embedded DIRECTORY GATE`, `remote ENDPOINT CONNECTION GATE`, or
`port ENDPOINT GATE`. `host DIRECTORY ADDRESS` runs an engine with a port, and no saga.

Its activity `gate` ends when the file GATE exists. For a line on standard input it prints its peak memory in bytes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from durabletask import task

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.config.model.payloads import FilePayloadsConfig, RemotePayloadsConfig
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.workflows import Workflows
from bridge.workflow import DataConverter, Saga, Step

TIMEOUT: Any = "2m"
MAX = 160 * 1024 * 1024
"""Limit of one payload: a compensation gets both input and result of its step."""


class Refused(Exception):
    """Refusal of a step."""


def workflows(gate_file: Path) -> Workflows:
    def reserve(ctx: task.ActivityContext, step: dict[str, Any]) -> str:
        return str(step["input"])[::-1]

    def gate(ctx: task.ActivityContext, step: Any) -> None:
        while not gate_file.exists():
            time.sleep(0.05)

    def charge(ctx: task.ActivityContext, step: dict[str, Any]) -> None:
        raise Refused("no")

    def release(ctx: task.ActivityContext, given: dict[str, Any]) -> None:
        assert given["result"] == given["input"][::-1]

    def order(ctx: task.OrchestrationContext, text: str) -> Generator[Any, Any, Any]:
        saga = Saga(ctx, "order")

        def body() -> Generator[Any, Any, Any]:
            yield from saga.step(Step("stock", reserve, text, compensation=release))
            yield from saga.step(Step("gate", gate))
            more = yield ctx.wait_for_external_event("more")
            yield from saga.step(Step("payment", charge, more, refusals=(Refused,)))

        return (yield from saga.run(body()))

    activities = {"reserve": reserve, "gate": gate, "charge": charge, "release": release}
    return Workflows({"order": order}, activities)


def embedded(directory: Path, *, host: bool) -> EmbeddedEngine:
    config = EmbeddedEngineConfig(type="embedded", payloads=FilePayloadsConfig(max=MAX), timeout=TIMEOUT)
    return EmbeddedEngine("default", config, directory, host=host)


def remote(endpoint: str, connection: str) -> SchedulerEngine:
    store = {"type": "blob", "connection_string": connection, "container": "fifty"}
    payloads = RemotePayloadsConfig.model_validate({"store": store, "max": MAX})
    config = SchedulerEngineConfig(type="scheduler", endpoint=endpoint, payloads=payloads, timeout=TIMEOUT)
    return SchedulerEngine("default", config)


def host(directory: Path, address: str) -> EmbeddedEngine:
    """Engine with a port at this address."""
    config = EmbeddedEngineConfig(type="embedded", payloads=FilePayloadsConfig(max=MAX), listen=address)
    return EmbeddedEngine("default", config, directory, host=True)


def port(endpoint: str) -> SchedulerEngine:
    """Engine behind a port, which keeps the payloads itself."""
    payloads = RemotePayloadsConfig.model_validate({"store": {"type": "engine"}, "max": MAX})
    config = SchedulerEngineConfig(type="scheduler", endpoint=endpoint, payloads=payloads, timeout=TIMEOUT)
    return SchedulerEngine("default", config)


def engine_of(kind: str, given: list[str]) -> Engine:
    if kind == "host":
        return host(Path(given[0]), given[1])
    if kind == "port":
        return port(given[0])
    return embedded(Path(given[0]), host=True) if kind == "embedded" else remote(given[0], given[1])


def peak() -> int:
    """Peak memory of this process in bytes."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def main() -> None:
    kind, *given = sys.argv[1:]
    engine = engine_of(kind, given)
    await engine.start()
    if kind != "host":
        worker = engine.worker(workflows(Path(given[-1])), DataConverter())
        worker.start()
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(peak(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
