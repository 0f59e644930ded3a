"""Spans in the engine's file: kept with the history, once, also in files that were made without traces."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from durabletask import task
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions, TracingOptions
from tests.kit.waiting import eventually_blocking
from tests.sqlite_engine.test_session import add, client_of
from tests.sqlite_engine.test_worker import outcome, quiet

TRACED = DatabaseOptions(tracing=TracingOptions(lambda trace_id, name: True, 256 * 1024 * 1024))


def waits(ctx: task.OrchestrationContext, value: int) -> Generator[task.Task[Any], Any, Any]:
    value = yield ctx.call_activity(add, input=value)
    yield ctx.wait_for_external_event("go")
    return value


def started(database: Database) -> DirectWorker:
    database.start()
    worker = DirectWorker(database, logger=quiet())
    worker.add_orchestrator(waits)
    worker.add_activity(add)
    worker.start()
    return worker


def kept(database: Database) -> list[str]:
    """Names of the spans that wait."""
    assert database.spans is not None
    _, number, spans = database.spans.read(0, 2**20)
    found = [span.name for span in ScopeSpans.FromString(spans).spans]
    assert len(found) == number
    return found


def test_instances_from_before_are_not_traced_and_new_ones_are(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    database = Database(path)
    worker = started(database)
    client_of(database).schedule_new_orchestration("waits", input=1, instance_id="before")
    eventually_blocking(lambda: len(worker.sessions) == 1)
    worker.stop()
    database.stop()

    database = Database(path, TRACED)
    worker = started(database)
    client = client_of(database)
    client.schedule_new_orchestration("waits", input=1, instance_id="after")
    for each in ("before", "after"):
        client.raise_orchestration_event(each, "go")
        assert outcome(client, each) == "2"
    assert sorted(set(kept(database))) == ["activity:add", "orchestration:waits", "orchestration:waits:wait"]
    assert kept(database).count("orchestration:waits") == 1
    worker.stop()
    database.stop()

    database = Database(path)  # traces are off again
    worker = started(database)
    client = client_of(database)
    client.schedule_new_orchestration("waits", input=1, instance_id="again")
    client.raise_orchestration_event("again", "go")
    assert outcome(client, "again") == "2"
    assert database.spans is None
    worker.stop()
    database.stop()


def test_spans_are_deleted_when_they_were_sent(tmp_path: Path) -> None:
    database = Database(tmp_path / "hub.db", TRACED)
    worker = started(database)
    client = client_of(database)
    for number in range(3):
        client.schedule_new_orchestration("waits", input=1, instance_id=f"i-{number}")
        client.raise_orchestration_event(f"i-{number}", "go")
        assert outcome(client, f"i-{number}") == "2"
    spans = database.spans
    assert spans is not None
    first = spans.read(0, 1)  # a limit below the size of a row gives one row
    everything = spans.read(0, 2**20)
    assert 0 < first[1] < everything[1]
    assert spans.read(0, 2**20) == everything, "a repeated read has the same bytes"
    assert spans.waiting_bytes == len(everything[2])
    spans.confirm(first[0])
    # The count changes before the commit that a reader sees
    eventually_blocking(lambda: spans.read(0, 2**20)[2] == everything[2][len(first[2]) :])
    assert spans.waiting_bytes == len(everything[2]) - len(first[2])
    spans.confirm(everything[0])
    eventually_blocking(lambda: spans.read(0, 2**20) == (0, 0, b""))
    assert spans.waiting_bytes == 0
    client.schedule_new_orchestration("waits", input=1, instance_id="later")
    eventually_blocking(lambda: spans.read(everything[0], 2**20)[1] > 0, "numbers are not used again")
    worker.stop()
    database.stop()


def test_a_worker_that_makes_its_own_spans_gets_none_from_the_engine(tmp_path: Path) -> None:
    from durabletask.internal import orchestrator_service_pb2 as pb

    database = Database(tmp_path / "hub.db", TRACED)
    worker = started(database)
    client = client_of(database)
    client.schedule_new_orchestration("waits", input=1, instance_id="i")
    eventually_blocking(lambda: kept(database) == ["activity:add"])
    instance = database.hub.find("i")
    assert instance is not None
    instance.trace = pb.OrchestrationTraceContext()
    instance.trace.spanID.value = "b7ad6b7169203331"
    client.raise_orchestration_event("i", "go")
    assert outcome(client, "i") == "2"
    assert kept(database) == ["activity:add"]
    worker.stop()
    database.stop()
