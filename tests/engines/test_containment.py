"""User code that raises any exception fails only its own instance, with any kind of worker."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask.entities import DurableEntity, EntityInstanceId

from bridge.engines.base import Engine
from bridge.engines.worker.failures import MAX_MESSAGE
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.workflow import DataConverter
from tests.kit.engine_modes import MODES, engine_of
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

SECONDS = int(TIMEOUT)


class OwnBase(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class ExitsInText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Recursive(Exception):
    def __str__(self) -> str:
        return str(self)


class NoText(Exception):
    def __str__(self) -> Any:
        return 5


class NoTruth(Exception):
    def __bool__(self) -> bool:
        raise KeyboardInterrupt


class OddName(Exception):
    __module__ = 7  # type: ignore[assignment]  # on purpose


def _caused(cause: BaseException) -> Exception:
    error = ValueError("outer")
    error.__cause__ = cause
    return error


RAISED: dict[str, Any] = {
    "exit": lambda: SystemExit(1),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "own": lambda: OwnBase("mine"),
    "group": lambda: BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("b")]),
    "unprintable": Unprintable,
    "exits_in_text": ExitsInText,
    "recursive": Recursive,
    "no_text": NoText,
    "gigantic": lambda: ValueError("x" * 20_000_000),
    "surrogate": lambda: ValueError("caf\udce9"),
    "odd_name": OddName,
    "stop": lambda: StopIteration("stopped"),
    "bad_cause": lambda: _caused(Unprintable()),
    "untrue_cause": lambda: _caused(NoTruth("n")),
    "exit_cause": lambda: _caused(SystemExit(2)),
}

TYPES = {
    "exit": "builtins.SystemExit",
    "own": f"{__name__}.OwnBase",
    "unprintable": f"{__name__}.Unprintable",
    "exits_in_text": f"{__name__}.ExitsInText",
    "cancelled": "asyncio.exceptions.CancelledError",
    "bad_cause": "builtins.ValueError",
    "surrogate": "builtins.ValueError",
}


def fail(kind: str) -> None:
    raise RAISED[kind]()


class Unencodable:
    """Value whose JSON form raises."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def to_json(self) -> Any:
        fail(self.kind)

    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


def raises(ctx: task.ActivityContext, kind: str) -> None:
    fail(kind)


def returns(ctx: task.ActivityContext, kind: str) -> Any:
    return Unencodable(kind)


def works(ctx: task.ActivityContext, _: Any) -> str:
    return "fine"


class Shelf(DurableEntity):
    def put(self, value: int) -> int:
        self.set_state(self.get_state(int, 0) + value)
        return self.get_state(int, 0)

    def raises(self, kind: str) -> None:
        self.set_state(-1)
        fail(kind)

    def returns(self, kind: str) -> Any:
        return Unencodable(kind)

    def stores(self, kind: str) -> None:
        self.set_state(Unencodable(kind))


def one_activity(ctx: task.OrchestrationContext, given: dict[str, str]) -> Any:
    try:
        yield ctx.call_activity(given["name"], input=given["kind"])
    except task.TaskFailedError as error:
        return [error.details.error_type, error.details.message]
    return "done"


def one_operation(ctx: task.OrchestrationContext, given: dict[str, str]) -> Any:
    try:
        return (yield ctx.call_entity(EntityInstanceId("shelf", "s"), given["name"], given["kind"]))
    except task.TaskFailedError as error:
        return [error.details.error_type, error.details.message]


def in_body(ctx: task.OrchestrationContext, kind: str) -> Any:
    yield ctx.create_timer(timedelta(milliseconds=1))
    fail(kind)


def at_once(ctx: task.OrchestrationContext, kind: str) -> Any:
    fail(kind)


def while_locked(ctx: task.OrchestrationContext, kind: str) -> Any:
    with (yield ctx.lock_entities([EntityInstanceId("shelf", "s")])):
        yield ctx.create_timer(timedelta(milliseconds=1))
        fail(kind)


def result(ctx: task.OrchestrationContext, kind: str) -> Any:
    yield ctx.create_timer(timedelta(milliseconds=1))
    return Unencodable(kind)


def result_at_once(ctx: task.OrchestrationContext, kind: str) -> Any:
    return Unencodable(kind)


def status(ctx: task.OrchestrationContext, kind: str) -> Any:
    yield ctx.create_timer(timedelta(milliseconds=1))
    ctx.set_custom_status(Unencodable(kind))


def next_input(ctx: task.OrchestrationContext, kind: str) -> Any:
    yield ctx.create_timer(timedelta(milliseconds=1))
    ctx.continue_as_new(Unencodable(kind))


def deep_result(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.create_timer(timedelta(milliseconds=1))
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def rude_cleanup(ctx: task.OrchestrationContext, kind: str) -> Any:
    try:
        yield ctx.wait_for_external_event("never")
    finally:
        fail(kind)


BODIES = (in_body, at_once, while_locked, result, result_at_once, status, next_input)
ORCHESTRATORS = (*BODIES, deep_result, rude_cleanup, one_activity, one_operation)


@contextlib.asynccontextmanager
async def working(way: str, directory: Path, converter: DataConverter | None = None) -> Any:
    """Yield an engine with a worker that has two threads of each kind."""
    known = Workflows(
        {each.__name__: each for each in ORCHESTRATORS},
        {each.__name__: each for each in (raises, returns, works)},
        {"shelf": Shelf},
    )
    async with engine_of(way, directory, threads=2) as engine:
        worker = engine.worker(known, converter or DataConverter())
        worker.start()
        try:
            yield engine, worker
        finally:
            assert await stop_worker(worker, TIMEOUT)


async def finished(engine: Engine, name: str, given: Any) -> Any:
    instance_id = await engine.client.schedule_new_orchestration(name, input=given)
    state = await engine.client.wait_for_orchestration_completion(instance_id, timeout=SECONDS)
    assert state is not None
    return state


async def all_finished(engine: Engine, starts: list[tuple[str, Any]]) -> list[Any]:
    return list(await asyncio.gather(*(finished(engine, *start) for start in starts)))


def check(kind: str, error_type: str, message: str, *, typed: bool = True) -> None:
    if typed:
        assert error_type == TYPES.get(kind, error_type)
    assert error_type.encode().decode()
    assert len(message.encode()) < MAX_MESSAGE * 5


@pytest.mark.parametrize("way", MODES)
async def test_activities_fail_alone(tmp_path: Path, way: str) -> None:
    starts = [("one_activity", {"name": name, "kind": kind}) for kind in RAISED for name in ("raises", "returns")]
    async with working(way, tmp_path) as (engine, _):
        for (_, given), state in zip(starts, await all_finished(engine, starts), strict=True):
            output = state.get_output()
            assert isinstance(output, list), given
            check(given["kind"], *output, typed=given["name"] == "raises")
        after = await finished(engine, "one_activity", {"name": "works", "kind": ""})
        assert after.get_output() == "done"


@pytest.mark.parametrize("way", MODES)
async def test_orchestrations_fail_alone(tmp_path: Path, way: str) -> None:
    starts: list[tuple[str, Any]] = [(each.__name__, kind) for kind in RAISED for each in BODIES]
    starts.append(("deep_result", None))
    async with working(way, tmp_path) as (engine, _):
        for (name, kind), state in zip(starts, await all_finished(engine, starts), strict=True):
            assert state.runtime_status.name == "FAILED", (name, kind)
            if name in ("in_body", "at_once", "while_locked"):
                check(kind, state.failure_details.error_type, state.failure_details.message)
        # No lock remains
        after = await finished(engine, "one_operation", {"name": "put", "kind": 2})
        assert after.get_output() == 2


@pytest.mark.parametrize("way", MODES)
async def test_operations_of_entities_fail_alone(tmp_path: Path, way: str) -> None:
    starts: list[tuple[str, Any]] = []
    for kind in RAISED:
        starts += [("one_operation", {"name": name, "kind": kind}) for name in ("raises", "returns", "stores")]
        starts.append(("one_operation", {"name": "put", "kind": 1}))
    async with working(way, tmp_path) as (engine, _):
        states = await all_finished(engine, starts)
        sums = [state.get_output() for state in states if isinstance(state.get_output(), int)]
        assert sorted(sums) == list(range(1, len(RAISED) + 1))
        for (_, given), state in zip(starts, states, strict=True):
            if given["name"] != "put":
                error_type, message = state.get_output()
                check(given["kind"], error_type, message, typed=False)
                assert given["kind"] != "exit" or message.endswith("user code raised SystemExit: 1")


@pytest.mark.parametrize("way", MODES)
async def test_one_batch_keeps_what_its_other_operations_did(tmp_path: Path, way: str) -> None:
    shelf = EntityInstanceId("shelf", "s")
    async with engine_of(way, tmp_path, threads=2) as engine:
        # Signalled before a worker runs; the operations therefore come in one batch
        for operation, value in [("put", 1), ("raises", "exit"), ("put", 2), ("stores", "own"), ("put", 4)]:
            await engine.client.signal_entity(shelf, operation, value)
        worker = engine.worker(Workflows(entities={"shelf": Shelf}), DataConverter())
        worker.start()

        async def stored() -> bool:
            found = await engine.client.get_entity(shelf)
            return found is not None and found.get_state(int) == 7

        await eventually(stored)
        assert await stop_worker(worker, TIMEOUT)


class RudeConverter(DataConverter):
    """Converter that raises for the word of a kind, in both directions."""

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        value = super().deserialize(data, target_type)
        if isinstance(value, str) and value.startswith("read-"):
            fail(value.removeprefix("read-"))
        return value


@pytest.mark.parametrize("way", MODES)
async def test_converters_that_raise_fail_one_instance(tmp_path: Path, way: str) -> None:
    starts = [("at_once", f"read-{kind}") for kind in RAISED]
    async with working(way, tmp_path, RudeConverter()) as (engine, _):
        for (_, given), state in zip(starts, await all_finished(engine, starts), strict=True):
            assert state.runtime_status.name == "FAILED", given
            kind = given.removeprefix("read-")
            check(kind, state.failure_details.error_type, state.failure_details.message)
        after = await finished(engine, "one_activity", {"name": "works", "kind": ""})
        assert after.get_output() == "done"


@pytest.mark.parametrize("way", MODES)
async def test_cleanup_of_a_terminated_orchestrator_may_raise_anything(tmp_path: Path, way: str) -> None:
    async with working(way, tmp_path) as (engine, _):
        for kind in RAISED:
            await engine.client.schedule_new_orchestration("rude_cleanup", input=kind, instance_id=kind)
            await engine.client.wait_for_orchestration_start(kind, timeout=SECONDS)
        for kind in RAISED:
            await engine.client.terminate_orchestration(kind)
            state = await engine.client.wait_for_orchestration_completion(kind, timeout=SECONDS)
            assert state.runtime_status.name == "TERMINATED"
        after = await finished(engine, "one_activity", {"name": "works", "kind": ""})
        assert after.get_output() == "done"


@pytest.mark.parametrize("way", MODES)
async def test_a_pool_whose_threads_are_all_busy_is_stuck_until_one_is_free(tmp_path: Path, way: str) -> None:
    release = threading.Event()
    begun: Counter[str] = Counter()

    def hangs(ctx: task.ActivityContext, _: Any) -> str:
        begun["hangs"] += 1
        release.wait(TIMEOUT)
        return "let go"

    def fan(ctx: task.OrchestrationContext, _: Any) -> Any:
        return (yield task.when_all([ctx.call_activity("hangs") for _ in range(5)]))

    async with engine_of(way, tmp_path, threads=2, stuck_after="50ms") as engine:
        worker = engine.worker(Workflows({"fan": fan}, {"hangs": hangs}), DataConverter())
        worker.start()
        try:
            assert worker.stuck() == []
            instance_id = await engine.client.schedule_new_orchestration("fan")
            await eventually(lambda: begun["hangs"] == 2 and bool(worker.stuck()))
            assert "all 2 threads" in worker.stuck()[0]
            release.set()
            await engine.client.wait_for_orchestration_completion(instance_id, timeout=SECONDS)
            assert worker.stuck() == []
        finally:
            release.set()
            assert await stop_worker(worker, TIMEOUT)
    assert worker.stuck() == []


async def test_a_thread_that_is_ended_from_outside_is_replaced_and_its_work_done(tmp_path: Path) -> None:
    def squares(ctx: task.ActivityContext, number: int) -> int:
        return number * number

    def fan(ctx: task.OrchestrationContext, _: Any) -> Any:
        return (yield task.when_all([ctx.call_activity("squares", input=n) for n in range(8)]))

    def threads() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name.startswith(("activities-", "turns-"))}

    async with engine_of("direct", tmp_path, threads=2) as engine:
        others = threads()  # of workers of other tests, which end by themselves
        worker = engine.worker(Workflows({"fan": fan}, {"squares": squares}), DataConverter())
        worker.start()
        first = threads() - others
        assert len(first) == 4
        for thread in first:
            # Raised when the thread leaves its queue, with a job taken
            assert (
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OwnBase))
                == 1
            )
        # A thread ends with the first job that it gets; its replacements may be faster
        while any(thread.is_alive() for thread in first):
            state = await finished(engine, "fan", None)
            assert state.get_output() == [n * n for n in range(8)]
        assert worker.stuck() == []
        assert len(threads() - others) == 4
        assert await stop_worker(worker, TIMEOUT)
    assert threads() - others == set()
