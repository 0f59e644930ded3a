"""Process to be killed that runs a saga on the embedded engine: `python -m tests.workflow.kill.shop DIRECTORY`.

The activities write a line before and after their work to DIRECTORY/log. They wait while DIRECTORY/hold-NAME exists.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from durabletask import task

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import Workflows
from bridge.workflow import PUBLISH_ACTIVITY, CompensationInput, DataConverter, Saga, Step, StepInput, message_aware

STEPS = ("stock", "flight", "hotel", "payment", "parcel")
SHORT = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=300), max_number_of_attempts=2)


def note(name: str, moment: str, key: str) -> None:
    """Write one line; the line is on disk before the return."""
    line = json.dumps({"name": name, "moment": moment, "key": key}) + "\n"
    with Path(sys.argv[1], "log").open("a") as log:
        log.write(line)
        log.flush()
        os.fsync(log.fileno())


def work(name: str, key: str) -> None:
    note(name, "begin", key)
    while Path(sys.argv[1], f"hold-{name}").exists():
        time.sleep(0.005)
    note(name, "end", key)


def do(ctx: task.ActivityContext, call: StepInput) -> str:
    name = call.input["step"]
    work(f"do-{name}", call.key)
    if name == call.input["fails"]:
        raise OSError(name)
    return f"{name} done"


def undo(ctx: task.ActivityContext, call: CompensationInput) -> None:
    work(f"undo-{call.input['step']}", call.key)


def publish(ctx: task.ActivityContext, event: dict[str, Any]) -> str:
    work("publish", event["id"])
    return str(event["id"])


publish.__name__ = PUBLISH_ACTIVITY


def shop(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    """Run stock, then flight and hotel at once, then a wait, then payment, then parcel."""
    saga = Saga(ctx, "shop", publish_outcome="results")

    def step(name: str) -> Step:
        given = {"step": name, "fails": plan.get("fails")}
        return Step(name, do, given, compensation=undo, retry=SHORT if name == "payment" else None)

    def body() -> Any:
        yield from saga.step(step("stock"))
        yield from saga.parallel([step("flight"), step("hotel")])
        if plan.get("waits"):
            yield from saga.wait_for_event("go")
        yield from saga.step(step("payment"))
        yield from saga.step(step("parcel"))

    return (yield from saga.run(body()))


async def main() -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(sys.argv[1], "engine"), host=True)
    await engine.start()
    worker = engine.worker(
        Workflows({"shop": message_aware(shop)}, {"do": do, "undo": undo, PUBLISH_ACTIVITY: publish}), DataConverter()
    )
    worker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
