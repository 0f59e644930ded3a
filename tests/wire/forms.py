"""Stored and sent forms, created by the product itself from samples with all members set."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import StringValue

from bridge.brokers.kafka.commits import encode_metadata
from bridge.brokers.local.database import open_database
from bridge.brokers.local.encoding import encode_headers
from bridge.brokers.servicebus import dead_letters
from bridge.codecs.cloudevents.binary import encode_binary
from bridge.codecs.cloudevents.structured import encode_structured
from bridge.config.model.engines import EarlyMessagesConfig
from bridge.config.model.sources import QuarantineConfig
from bridge.config.source import load
from bridge.core import system_names as names
from bridge.core.answers import SigningKey, SigningKeyring, parse, reply_event
from bridge.core.commands import RaiseEvent, WaitFor
from bridge.core.deduplication import digest
from bridge.core.errors import EngineError, Problem
from bridge.core.message import Event, Message, Position, Unreadable
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.core.pace import Paces
from bridge.core.provenance import Cause, dead_letter
from bridge.core.settlement import RetryPolicy
from bridge.core.stored_message import ReplayOf, StoredMessage, UndeliveredMessage
from bridge.dead_letters.state_machine import BlockStates
from bridge.early_messages import state_machine as early_message_queue
from bridge.early_messages.state_machine import WaitingCommand
from bridge.engines.recording import Recording
from bridge.jobs.kind import JobRequest
from bridge.jobs.state_machine import JobPage, JobRecord, JobRegistry
from bridge.ops.audit import Actor, AuditedChange
from bridge.ops.health import Check, Readiness
from bridge.ops.trail import AuditTrail
from bridge.quarantine import quarantined_key as ordering_key
from bridge.quarantine import state_machine as key_quarantine
from bridge.replay.state_machine import ReplayQueue
from bridge.routing.cel.expression import Compiler
from bridge.routing.saga import SagaCompiler, start_input
from bridge.sqlite_engine.storage.schema import connect, prepare
from bridge.waiting.dead_letters import start_dead_letters
from bridge.workflow import CompensationInput, DataConverter, FailedCompensation, SagaOutcome, StepFailed, StepInput
from bridge.workflow.entity import bare_state
from bridge.workflow.outcome import StepState
from bridge.workflow.progress import SagaCustomStatus, acknowledge_cancel
from bridge.workflow.publishing import expects_answer, new_correlation_id, new_event, request_headers
from tests.app.test_check_sagas import SOUND
from tests.waiting.sample import COMMANDS

NOW = 1_700_000_000.0
POSITION = Position("cluster", "orders", 3, 1 << 33)
ORIGIN = MessageOrigin("shop/1", "paid", 2, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x=1")
MESSAGE = Message(
    b"\xff", b"k", (("type", b"start"), ("raw", b"\xfe"), ("null", None)), 12.5, "m", "application/json",
    unreadable=Unreadable("crc", "the checksum is wrong", True, 9),
)  # fmt: skip
STORED = StoredMessage(MESSAGE, POSITION, "local", "orders.dlq", "orders", "m-1", "0123", ("start", "count"), True)
CAUSE = Cause(
    "no_route",
    "no rule matched",
    "NoRoute",
    "orders",
    "tell",
    ("start", "count"),
    4,
    "0123",
    "m-2",
    True,
    3,
    "route tell, when",
    12.5,
)


def copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def shape(value: Any, path: str = "") -> Iterator[str]:
    """Return the paths of the members of a JSON value, with their types."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from shape(each, f"{path}.{name}")
        if not value:
            yield f"{path}: object"
    elif isinstance(value, list | tuple):
        for each in value:
            yield from shape(each, f"{path}[]")
        if not value:
            yield f"{path}: list"
    else:
        yield f"{path}: {type(value).__name__}"


# -- states of entities


def early_state() -> Any:
    """State of an early-message entity: one message waits after a failure, one was delivered."""
    kept = early_message_queue.EarlyMessageQueue(EarlyMessagesConfig(), 60.0, RetryPolicy())
    first, second = (
        WaitingCommand(
            RaiseEvent("order-1", "paid", number, WaitFor(60.0)),
            MessageOrigin(f"m-{number}", "paid"),
            STORED,
            NOW,
            NOW + 60,
        )
        for number in (1, 2)
    )
    kept.store(first.to_json(), 10, lambda command, origin: None, NOW)
    kept.store(second.to_json(), 10, _away, NOW)
    return copied(kept.to_json()) | {"target": "order-1"}


def job_record(state: str = "running", left: int = 1) -> Any:
    """State of the entity with the record of a job. left: items without a result, of two items."""
    request = JobRequest("instances.terminate", {}, "all", NOW, 2.0, (1, 10), 1, 60.0, "why", "ada")
    record = JobRecord("key")
    record.apply("create", {"request": request.to_json(), "space": "instances"}, NOW)
    if state != "selecting":
        record.apply("selected", {"pages": 1, "items": 2}, NOW)
        record.apply("ordered", {"number": 1}, NOW)
        record.apply("claim", {"token": "t"}, NOW)
        record.apply("moved", {"moves": {"left": left - 2, "early": 2 - left}, "at": NOW + 1}, NOW)
        control = {"aborted": "abort", "paused": "pause"}.get(state, "?")
        record.apply(control, {"id": "t", "by": "ada", "reason": "r"}, NOW)
    return copied(record.to_json())


def job_page() -> Any:
    """State of the entity with a page of a job."""
    page = JobPage()
    page.apply("fill", {"job": "key", "kind": "instances.terminate", "ids": ["a", "b", "c"]}, NOW)
    page.apply("begin", {"step": 1, "ids": ["a", "b"]}, NOW)
    page.apply("results", {"a": ["early", "why"]}, NOW)
    return copied(page.to_json())


def job_registry() -> Any:
    """State of the entity with the unfinished jobs."""
    registry = JobRegistry()
    registry.apply("add", {"job": "a", "space": "instances"})
    return copied(registry.to_json())


def _away(command: Any, origin: Any) -> None:
    raise EngineError("it does not say why")


def quarantine_state() -> Any:
    kept = key_quarantine.KeyQuarantine(QuarantineConfig())
    item = {
        "mark": "m",
        "letter": STORED.to_json(),
        "since": NOW,
        "attempts": 1,
        "failed": 0.5,
        "route": "r",
        "size": 5,
    }
    cause = {"reason": "bug", "detail": "d", "error": "E", "route": "r"}
    kept.hold({"source": "orders", "key": "Yms=", "item": item, "cause": cause, "until": NOW})
    kept.claim("daemon", NOW)
    return copied(kept.to_json())


def dead_letter_changes() -> list[dict[str, Any]]:
    """Return values of the operations on the states of dead letters, for which each operation has an effect."""
    given = {"at": NOW, "by": "ann", "reason": "test"}
    offsets = [0, 1, 2, 3, 4]
    items = [(each, NOW) for each in offsets]
    return [
        {"job": "j", **given, "items": items, "offsets": offsets},
        {"job": "k", **given, "items": items, "offsets": offsets, "states": ["replayed"], "below": 1},
    ]


def replay_state() -> Any:
    queue = ReplayQueue()
    replay = ReplayOf("default", "j", 0, "orders.dlq/0@1", "local", ("orders.dlq", 0, 1))
    item = {"mark": "local/orders.dlq/0@1", "letter": replace(STORED, replay=replay).to_json(), "size": 5}
    given = {"source": "orders", "topic": "orders", "partition": 0, "job": "j", "page": 0, "items": [item]}
    queue.add(given, NOW)
    queue.claim("daemon", NOW)
    return copied(queue.to_json())


def replay_results() -> Any:
    done = {"mark": "local/orders.dlq/0@1", "result": "failed", "reason": "bug", "detail": "d", "error": "E"}
    return [done | {"route": "r", "attempts": 1, "executed": ["q"], "expression": "route r, when"}]


def dead_letter_states() -> Any:
    states = BlockStates()
    given = {"job": "j", "at": NOW, "by": "ann", "reason": "test"}
    states.apply("take", given | {"items": [(0, NOW), (1, NOW), (2, NOW)]})
    states.apply("replayed", given | {"offsets": [1]})
    states.apply("returned", given | {"offsets": [2]})
    states.apply("drop", given | {"items": [(3, NOW)]})
    return copied(states.to_json())


def _states() -> Iterator[tuple[str, Any]]:
    paces = Paces()
    paces.limit("r", 0.0)
    paces.claim("r", "daemon", NOW)
    yield "early messages", early_state()
    yield "quarantine", quarantine_state()
    yield "dead-letter paces", paces.to_json()
    yield "states of dead letters", dead_letter_states()
    yield "replay queue", replay_state()
    yield "results of replays", replay_results()
    yield "job", job_record("paused")
    yield "page of a job", job_page()
    yield "registry of jobs", job_registry()
    yield "keys", SigningKeyring((SigningKey("AAAA", b"1" * 32, 2.0, 3.0),)).to_json()


# -- forms sent through an engine


class _Orchestrator(SimpleNamespace):
    """Orchestrator context that records the custom status."""

    instance_id = "order-1"
    is_replaying = False
    current_utc_datetime = datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None)
    status: Any = None
    _parent_trace_context = pb.TraceContext(traceParent=ORIGIN.traceparent, traceState=StringValue(value="x=1"))

    def new_uuid(self) -> str:
        return "00000000-0000-0000-0000-000000000001"

    def set_custom_status(self, status: Any) -> None:
        self.status = status


def _custom_status() -> Any:
    ctx: Any = _Orchestrator()
    shown = SagaCustomStatus(ctx, "order", ["a", "b"])
    shown.enter("a", StepState.RUNNING)
    shown.commit()
    shown.fail(StepFailed("a", "failed", "d"), ["a"])
    shown.failed_compensations([FailedCompensation("a", "e")])
    shown.show()
    return json.loads(DataConverter().serialize(ctx.status) or "")


def _acknowledged() -> Any:
    ctx: Any = _Orchestrator()
    acknowledge_cancel(ctx)
    return ctx.status


def publish_request() -> Any:
    ctx: Any = _Orchestrator()
    correlation_id = new_correlation_id(ctx)
    headers = request_headers({"a": "b"}, "answers", correlation_id)
    event = new_event(ctx, "stock", {}, "reserve", "s", "k", headers)
    return expects_answer(event, correlation_id, ctx.current_utc_datetime)


def saga_definition() -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bridge.yaml"
        path.write_text(SOUND.replace("timeout: 1m\n", "timeout: 1m\n            detail: reply.why\n", 1))
        config = load([path]).config

    def locate(at: Any, what: str) -> Problem:
        return Problem("", 0, 0, "", what)

    return SagaCompiler("order", config, locate).compile(Compiler(locate, config.vars))


def _dead_letter_input() -> Any:
    sent: list[Any] = []
    ctx: Any = SimpleNamespace(
        entity_id=SimpleNamespace(key="k"), schedule_new_orchestration=lambda *given: sent.append(given)
    )
    start_dead_letters(ctx, [UndeliveredMessage({"mark": "m", "since": NOW}, early_message_queue.EXPIRED, "d", "E", 2)])
    return list(sent[0])


def _sent() -> Iterator[tuple[str, Any]]:
    for command in COMMANDS:
        # The command name distinguishes the forms
        form = WaitingCommand(command, ORIGIN, STORED, 5.0, 65.0).to_json()
        yield f"waiting command {form['verb']}", form
    yield "message envelope", wrap_payload({}, ORIGIN, {"seen": "", "remember": 1})
    yield "saga input", start_input(saga_definition(), {})
    yield "saga status", _custom_status()
    yield "cancel acknowledged", _acknowledged()
    yield "publish request", publish_request()
    yield "dead letter orchestration, input and id", _dead_letter_input()
    converter = DataConverter()
    for name, value in (
        ("saga outcome", SagaOutcome("completed", {}, "r", "s", "d", ["a"], ["a"], [FailedCompensation("a", "e")])),
        ("step input", StepInput("k", {})),
        ("compensation input", CompensationInput("k", {}, {}, True)),
    ):
        yield name, json.loads(converter.serialize(value) or "")
    yield "recorded history", Recording("i", "o", ()).to_json()


# -- forms on brokers, in logs and on sockets


def _event() -> Event:
    more = {"recordname": "r", "partitionkey": "p"}
    return Event("1", "shop", "paid", {}, "s", "2026-01-01T00:00:00Z", more, {"a": "b"}, "k")


def headers() -> list[str]:
    """Headers of dead letters and of published events, with the values of a sample."""
    received = dead_letter(MESSAGE, POSITION, CAUSE)
    found = [f"dead letter {name}: {value!r}" for name, value in received.headers]
    for kind, encode in (("binary", encode_binary), ("structured", encode_structured)):
        message = encode(_event())
        found += [f"cloudevent {kind} {name}: {value!r}" for name, value in message.headers]
        found.append(f"cloudevent {kind} body {message.body!r}")
    found += [f"publish request {name}" for name in publish_request()["headers"]]
    for reason, description in dead_letters.describe(MESSAGE, POSITION, CAUSE)[:1]:
        found.append(f"service bus {dead_letters.REASON} {reason}; {dead_letters.DESCRIPTION} {description!r}")
    return sorted(found)


def _told() -> Iterator[tuple[str, Any]]:
    change = AuditedChange(Actor("a", 1, "cli"), "instances.start", "*", {"a": 1}, "because", "failed", "bug")
    yield "audit line", change.line()
    yield "readiness", Readiness("running", (Check("source", "orders", "held", "d"),)).as_dict()  # type: ignore[arg-type]  # text, as on the wire


def members() -> list[str]:
    """JSON members of all forms."""
    return sorted(
        {f"{name} {path}" for forms in (_states(), _sent(), _told()) for name, form in forms for path in shape(form)}
    )


def values() -> list[str]:
    """Names and texts that the product derives from a sample: keys of entities, ids, digests, signatures."""
    correlation = "00000000-0000-0000-0000-000000000001@order-1"
    signed = SigningKey("AAAA", b"1" * 32, 2.0).sign(correlation, 1_700_000_000_000)
    parsed = parse(signed)
    found = {
        "entity of an instance": names.target_id("a@b~c"),
        "entity of an instance, hashed": names.target_id("i" * 300),
        "entity of an ordering key": names.quarantine_key("orders", b"bk"),
        "orchestration of a dead letter": names.dead_letter_id("k", "m", 1.5),
        "mark of a command": early_message_queue.origin_key(ORIGIN),
        "mark of a delivery": key_quarantine.delivery_id(POSITION),
        "digest of a message": digest(ORIGIN.key),
        "position": str(POSITION),
        "ordering key, bytes": repr(ordering_key.encode_key(b"k")),
        "ordering key, text": repr(ordering_key.encode_key("k")),
        "ordering key, partition": repr(ordering_key.encode_key(("orders", 1))),
        "ordering key, none": repr(ordering_key.encode_key(("c/t/0@1",))),
        "event of an answer": reply_event(correlation),
        "signed correlation id": signed,
        "signed correlation id, event": "" if parsed is None else parsed.event,
        "metadata of a Kafka commit": encode_metadata(10, [11, 13]),
        "headers of the local broker": repr(encode_headers(MESSAGE.headers)),
        "id of a dead letter on Service Bus": dead_letters._identity(MESSAGE, POSITION),
        "message envelope": json.dumps(wrap_payload({"a": 1}, ORIGIN)),
        "state of an entity": json.dumps(bare_state({"bridge:entity": {"v": 1, "seen": "", "state": {"a": 1}}})),
        "reasons of messages that waited": ", ".join(
            (early_message_queue.EXPIRED, early_message_queue.FULL, early_message_queue.DROPPED)
        ),
    }
    return sorted(f"{name}: {value}" for name, value in found.items())


def tables() -> dict[str, list[str]]:
    """Schemas of fresh files, as SQLite reports them."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        engine = connect(directory / "engine.db")
        prepare(engine, directory / "engine.db")
        return {"engine": _schema(engine), "local broker": _schema(open_database(directory))}


def _schema(connection: sqlite3.Connection) -> list[str]:
    with connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        numbers = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]}"
            for name in ("application_id", "user_version", "page_size", "journal_mode")
        ]
    connection.close()
    return sorted([*(" ".join(row[0].split()) for row in rows), *numbers])


def files() -> list[str]:
    """Files of a fresh audit trail and a fresh local broker."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        AuditTrail(directory).append({})
        open_database(directory).close()
        return sorted(each.name for each in directory.iterdir())
