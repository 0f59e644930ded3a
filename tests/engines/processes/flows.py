"""Workflows for worker processes: some end their process in every way that there is."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from durabletask import entities, task


def end(how: str) -> str:
    """End this process, or only the caller, as the word says."""
    if how == "os._exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "memory":
        return str(len(bytearray(1 << 30)))
    return how


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(text + "\n")


def ends(ctx: task.ActivityContext, how: str) -> str:
    return end(how)


def echo(ctx: task.ActivityContext, value):
    return value


def pid(ctx: task.ActivityContext, _) -> int:
    return os.getpid()


def makes(ctx: task.ActivityContext, size: int) -> str:
    return "x" * size


def forks(ctx: task.ActivityContext, _) -> int:
    """Start a process that has everything open that this one has, and lives longer."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    return child


def noted(ctx: task.ActivityContext, given: list[str]) -> str:
    note(*given)
    return given[1]


def waits(ctx: task.ActivityContext, path: str) -> str:
    """Wait until the file exists."""
    note(f"{path}.began", str(os.getpid()))
    while not Path(path).exists():
        time.sleep(0.01)
    return "done"


async def async_waits(ctx: task.ActivityContext, path: str) -> str:
    """Wait until the file exists."""
    note(f"{path}.began", str(os.getpid()))
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "done"


async def async_ends(ctx: task.ActivityContext, where: str) -> None:
    """End this process in a step of the activity, in a task of its own, or in a thread."""
    await asyncio.sleep(0.01)
    if where == "thread":
        await asyncio.to_thread(end, "kill")
    elif where == "task":
        await asyncio.gather(_ends_later())
    else:
        end("kill")


async def async_fails(ctx: task.ActivityContext, how: str) -> str:
    await asyncio.sleep(0.01)
    return end(how)


async def _ends_later() -> None:
    await asyncio.sleep(0)
    end("kill")


def looks(ctx: task.ActivityContext, _) -> dict[str, list[str]]:
    """Report files and threads of this process, as the system knows them."""
    files = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            files.append(str(each.readlink()))
        except OSError:
            continue
    known = threading.enumerate()
    tasks = {int(each.name) for each in Path("/proc/self/task").iterdir()}
    strange = tasks - {each.native_id for each in known if each.native_id is not None}
    return {
        "files": sorted(files),
        "threads": sorted(each.name for each in known),
        "threads of libraries": [Path(f"/proc/self/task/{each}/comm").read_text().strip() for each in strange],
    }


def traced(ctx: task.ActivityContext, name: str) -> str:
    from opentelemetry import trace

    with trace.get_tracer("flows").start_as_current_span(name):
        return name


def activity_ends(ctx: task.OrchestrationContext, how: str):
    return (yield ctx.call_activity(ends, input=how))


def orchestrator_ends(ctx: task.OrchestrationContext, how: str):
    yield ctx.call_activity(echo, input=how)
    return end(how)


def entity_makes(ctx: task.OrchestrationContext, size: int):
    return (yield ctx.call_entity(entities.EntityInstanceId("maker", "one"), "make", size))


def entity_ends(ctx: task.OrchestrationContext, how: str):
    return (yield ctx.call_entity(entities.EntityInstanceId("fragile", "one"), "end", how))


def fragile(ctx: entities.EntityContext, how: str) -> str:
    return end(how)


def maker(ctx: entities.EntityContext, size: int) -> str:
    return "x" * size


def calls(ctx: task.OrchestrationContext, given: list[Any]):
    """Call an activity by name."""
    return (yield ctx.call_activity(given[0], input=given[1]))


def blocks(ctx: task.OrchestrationContext, given: list[Any]):
    """Occupy the thread of the first turn until the file exists, if there is one."""
    path, value = given
    while path and not ctx.is_replaying and not Path(path).exists():
        note(f"{path}.began", "turn")
        time.sleep(0.01)
    for _ in range(3):
        value = yield ctx.call_activity(echo, input=value)
        value = value + (yield ctx.wait_for_external_event("more"))
    return value


def chain(ctx: task.OrchestrationContext, value: int):
    for _ in range(4):
        value = yield ctx.call_activity(echo, input=value + 1)
    return value


def accumulates(ctx: task.OrchestrationContext, given: list[int]):
    """Call activities with large results."""
    number, size = given
    for _ in range(number):
        yield ctx.call_activity(makes, input=size)


def homes(ctx: task.OrchestrationContext, _):
    """Report the processes of five turns."""
    found = []
    for _ in range(5):
        yield ctx.call_activity(echo, input=0)
        found.append(os.getpid())
    return found


def messages(ctx: task.OrchestrationContext, count: int):
    got: list[Any] = []
    while len(got) < count:
        got += [(yield ctx.wait_for_external_event("item"))]
    return got


def version(ctx: task.OrchestrationContext, _):
    return ctx.version


def version_of_child(ctx: task.OrchestrationContext, _):
    """Report the version that a child of a later turn gets."""
    yield ctx.call_activity(echo, input=0)
    return (yield ctx.call_sub_orchestrator(version))
