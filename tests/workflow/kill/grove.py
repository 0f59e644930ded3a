"""Random sagas on the embedded engine, in a process to be killed: `python -m tests.workflow.kill.grove DIRECTORY`.

DIRECTORY/woods contains the sagas. The process starts those not yet started, cancels those to be cancelled, and prints
`done` when all have ended. Every run of an activity adds a byte to a file named after the activity and its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import re
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from durabletask import task

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import Cancel, ScheduleOrchestration
from bridge.core.errors import AlreadyTaken, InstanceAlreadyExists, InstanceFinished
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import Workflows
from bridge.workflow import PUBLISH_ACTIVITY, CompensationInput, DataConverter, StepInput
from tests.kit.waiting import TIMEOUT
from tests.workflow.trees import RESULTS, No, Wood

UNIT = 0.05


def instance(number: int) -> str:
    return f"wood-{number}"


class Services:
    """Activities for steps and compensations, and the answers of services to commands."""

    def __init__(self, directory: Path, answer: Callable[[str, str], None]) -> None:
        self._directory = directory
        self._answer = answer

    def _run(self, kind: str, key: str) -> int:
        """Return the number of this run; the count is on disk before the return."""
        with (self._directory / f"{kind}-{key.replace('/', '-')}").open("ab") as runs:
            runs.write(b".")
            runs.flush()
            os.fsync(runs.fileno())
            return runs.tell()

    def _do(self, key: str, plan: dict[str, Any]) -> str:
        number = self._run("do", key)
        time.sleep(plan["takes"] * UNIT)
        if number <= plan["failures"]:
            raise OSError("away")
        return f"result of {plan['name']}"

    def _undo(self, key: str, plan: dict[str, Any]) -> str:
        number = self._run("undo", key)
        time.sleep(0.3 * UNIT)
        if number <= plan["undo_failures"]:
            raise OSError("no")
        return "undone"

    def do(self, ctx: task.ActivityContext, call: StepInput) -> str:
        if call.input["refused"]:
            raise No("no")
        return self._do(call.key, call.input)

    def undo(self, ctx: task.ActivityContext, call: CompensationInput) -> str:
        return self._undo(call.key, call.input)

    def publish(self, event: dict[str, Any]) -> str:
        if event["target"] != RESULTS:
            key = event["headers"]["step-key"]
            if event["type"] == "undo":
                return self._undo(key, event["data"]["input"])
            self._do(key, event["data"])
            self._answer(event["key"], f"reply:{event['headers']['correlation-id']}")
        return str(event["id"])


def child(ctx: task.OrchestrationContext, call: StepInput, failures: int) -> Any:
    plan = call.input
    if plan["refused"] and not isinstance(call, CompensationInput):
        raise No("no")
    timer = ctx.create_timer(timedelta(seconds=plan["takes"] * UNIT))
    cancel = ctx.wait_for_external_event("cancel")
    while not timer.is_complete:
        yield task.when_any([timer] if cancel.is_complete else [timer, cancel])
        if cancel.is_complete and plan["obeys"]:
            raise OSError("cancelled")
    # Ids end in STEP:ATTEMPT; from the second round behind the point of no return on, in STEP:rROUND:ATTEMPT
    step, attempt = ctx.instance_id.split(":")[-2:]
    rounds = int(step[1:]) - 1 if re.fullmatch(r"r\d+", step) else 0
    if rounds * plan["attempts"] + int(attempt) <= failures:
        raise OSError("stumbled")
    return "done"


def do_child(ctx: task.OrchestrationContext, call: StepInput) -> Any:
    return child(ctx, call, call.input["failures"])


def undo_child(ctx: task.OrchestrationContext, call: CompensationInput) -> Any:
    return child(ctx, call, call.input["undo_failures"])  # type: ignore[arg-type]  # wider than its annotation, on purpose


class Grove:
    """Engine and worker with all sagas, and the tasks that start and cancel them."""

    def __init__(self, directory: Path, woods: list[Wood]) -> None:
        config = EmbeddedEngineConfig(type="embedded")
        self._engine = EmbeddedEngine("default", config, directory / "engine", host=True)
        self._executor = CommandRunner(self._engine)
        self._directory = directory
        self._woods = woods

    async def run(self) -> None:
        await self._engine.start()
        loop = asyncio.get_running_loop()

        def answer(instance_id: str, event: str) -> None:
            raised = self._engine.client.raise_orchestration_event(instance_id, event, data="yes")
            asyncio.run_coroutine_threadsafe(raised, loop).result()

        services = Services(self._directory, answer)
        grown = [wood.orchestrator(UNIT) for wood in self._woods]

        def random_saga(ctx: task.OrchestrationContext, number: int) -> Any:
            return (yield from grown[number](ctx, None))

        def publish(ctx: task.ActivityContext, event: dict[str, Any]) -> str:
            return services.publish(event)

        orchestrators = {"random": random_saga, "do-child": do_child, "undo-child": undo_child}
        activities = {"do": services.do, "undo": services.undo, PUBLISH_ACTIVITY: publish}
        publish.__name__ = PUBLISH_ACTIVITY
        for name, function in orchestrators.items():
            function.__name__ = name
        worker = self._engine.worker(Workflows(orchestrators, activities), DataConverter())  # type: ignore[arg-type]  # wider than its annotation, on purpose
        worker.start()
        print("ready", flush=True)
        await asyncio.gather(*(self._one(number) for number in range(len(self._woods))))
        print("done", flush=True)

    async def _one(self, number: int) -> None:
        name = instance(number)
        with contextlib.suppress(InstanceAlreadyExists):
            await self._executor.execute(ScheduleOrchestration("random", name, number))
        for at in self._woods[number].cancels:
            await asyncio.sleep(at * UNIT)
            with contextlib.suppress(AlreadyTaken, InstanceFinished):
                await self._executor.execute(Cancel(name, reason="asked"))
        try:
            await self._engine.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
        except TimeoutError:
            state = await self._engine.client.get_orchestration_state(name)
            assert state is not None
            raise AssertionError(f"{name} is not over: {state.serialized_custom_status}") from None


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    asyncio.run(Grove(directory, pickle.loads((directory / "woods").read_bytes())).run())
