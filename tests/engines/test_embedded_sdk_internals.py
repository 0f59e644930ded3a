"""The SDK has every private part that the worker in the engine's process uses. The worker works without each one."""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from durabletask import task
from durabletask import worker as sdk_worker
from durabletask.internal import tracing as sdk_tracing

from bridge.engines.embedded import sdk_internals, session
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from tests.sqlite_engine.test_session import client_of
from tests.sqlite_engine.test_worker import outcome

WAITS = 3
SETTINGS = ("_auto_generate_work_item_filters", "_concurrency_options", "_work_item_filters")


def add(ctx: task.ActivityContext, number: int) -> int:
    return number + 1


def count(ctx: task.OrchestrationContext, number: int) -> Any:
    for _ in range(WAITS):
        number = yield ctx.call_activity(add, input=number)
    return number


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "hub.db")
    database.start()
    yield database
    database.stop()


def run(database: Database, change: Any = lambda worker: None) -> DirectWorker:
    """Run an orchestration to its end. change: called with the worker before it starts. Returns the worker."""
    worker = DirectWorker(database, logger=logging.getLogger("tests.sdk"))
    worker.add_orchestrator(count)
    worker.add_activity(add)
    change(worker)
    worker.start()
    try:
        client = client_of(database)
        client.schedule_new_orchestration("count", input=1, instance_id="i")
        assert outcome(client, "i") == str(1 + WAITS)
    finally:
        worker.stop()
    return worker


def touched(function: Any, name: str) -> set[str]:
    """Private attributes of an object that a class or function reads or writes, also with `getattr`."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        match node:
            case ast.Attribute(value=value, attr=attr) if ast.unparse(value).endswith(name):
                found.add(attr)
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]):
                if ast.unparse(value).endswith(name):
                    found.add(attr)
    return {attr for attr in found if attr.startswith("_") and not attr.startswith("__")}


def test_the_sdk_has_the_parts() -> None:
    assert sdk_internals.TurnExecutor is sdk_worker._OrchestrationExecutor
    assert sdk_internals.ActivityExecutor is sdk_worker._ActivityExecutor
    assert sdk_internals.suppress_spans is sdk_tracing.suppress_span_emission
    assert set(dir(sdk_internals.TurnExecutor)) >= sdk_internals.EXECUTOR
    worker = sdk_worker.TaskHubGrpcWorker()
    assert vars(worker).keys() >= sdk_internals.WORKER
    assert vars(worker).keys() >= {*SETTINGS, "_payload_store", "_is_running"}
    filters = sdk_worker.WorkItemFilters._from_registry(worker._registry)
    assert filters._to_grpc().ListFields() == []


def test_all_used_attributes_are_checked() -> None:
    """A session begins only when the SDK has every attribute that it uses."""
    assert touched(sdk_internals.OpenTurnExecutor, "context") == sdk_internals.CONTEXT
    made = touched(sdk_internals.InProcessWorker.make_turn_executor, "self")
    assert made | touched(sdk_internals.InProcessWorker.make_activity_executor, "self") <= sdk_internals.WORKER
    assert touched(sdk_internals.InProcessWorker.failure_details_of, "self") <= sdk_internals.WORKER


def test_sessions_save_replays(database: Database) -> None:
    worker = run(database)
    assert (worker.sessions.most > 0, worker.stats.replays) == (True, 0)


def without_executor_of_turns(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sdk_internals, "TurnExecutor", object)


def without_a_method(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sdk_internals, "EXECUTOR", sdk_internals.EXECUTOR | {"renamed"})


def without_an_attribute_of_the_worker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sdk_internals, "WORKER", sdk_internals.WORKER | {"_renamed"})


def without_an_attribute_of_the_context(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sdk_internals, "CONTEXT", sdk_internals.CONTEXT | {"_renamed"})


@pytest.mark.parametrize(
    "lack",
    [
        without_executor_of_turns,
        without_a_method,
        without_an_attribute_of_the_worker,
        without_an_attribute_of_the_context,
    ],
)
def test_without_a_part_of_a_session_every_turn_is_a_replay(
    database: Database, monkeypatch: pytest.MonkeyPatch, lack: Any
) -> None:
    lack(monkeypatch)
    worker = run(database)
    assert (len(worker.sessions), worker.stats.replays) == (0, WAITS)


def test_without_the_executor_of_activities_the_sdk_runs_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_internals, "ActivityExecutor", None)
    assert run(database).make_activity_executor() is None


def test_an_unknown_store_of_payloads_gets_copies(database: Database) -> None:
    """The SDK then replays each turn, as it does with a store."""

    def change(worker: Any) -> None:
        value = worker._payload_store
        kind = type(worker)
        worker.__class__ = type("Renamed", (kind,), {"stores_payloads": True})
        assert value is None

    assert run(database, change).stats.replays == WAITS


@pytest.mark.parametrize("name", SETTINGS)
def test_a_worker_without_a_setting(database: Database, name: str) -> None:
    """Without filters the worker is offered work of all names; without its concurrency it has the SDK's default."""

    def change(worker: Any) -> None:
        worker.use_work_item_filters()
        delattr(worker, name)

    run(database, change)


def test_generated_filters_need_the_registry(database: Database) -> None:
    worker: Any = DirectWorker(database, logger=logging.getLogger("tests.sdk"))
    worker.use_work_item_filters()
    assert worker.filters is not None
    del worker._registry
    assert worker.filters is None


def test_an_unknown_payload_store_counts_as_one(database: Database) -> None:
    worker: Any = DirectWorker(database, logger=logging.getLogger("tests.sdk"))
    assert not worker.stores_payloads
    del worker._payload_store
    assert worker.stores_payloads


def test_the_sdk_may_make_spans_of_its_own(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "suppress_spans", nullcontext)
    assert run(database).stats.replays == 0


def test_a_context_without_attributes_is_released() -> None:
    class Context:
        """Context of another version of the SDK."""

    executor: Any = object.__new__(sdk_internals.OpenTurnExecutor)
    executor.context = Context()
    assert not executor.can_continue
    assert executor.received_events == {}
    executor.release()
    assert executor.context is None
    assert executor.is_over
    executor.release()


def test_a_running_worker_registers_nothing_more(database: Database) -> None:
    worker = DirectWorker(database, logger=logging.getLogger("tests.sdk"))
    worker.start()
    try:
        assert worker.is_running
        with pytest.raises(RuntimeError):
            worker.add_activity(add)
    finally:
        worker.stop()
    assert not worker.is_running
