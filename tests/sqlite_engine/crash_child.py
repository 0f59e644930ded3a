"""Process that the crash test kills: an engine, its worker, and load; writes acknowledgements to a file."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.entities import EntityContext, EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply
from bridge.sqlite_engine.model.values import StringValue

Steps = Generator[task.Task[Any], Any, Any]
KINDS = ("sequence", "timer", "events", "parent", "counting", "generations")
EVENTS = 3


def double(ctx: task.ActivityContext, value: int) -> int:
    return value * 2


def sequence(ctx: task.OrchestrationContext, value: int) -> Steps:
    once = yield ctx.call_activity(double, input=value)
    twice = yield ctx.call_activity(double, input=once)
    both = yield task.when_all([ctx.call_activity(double, input=twice), ctx.call_activity(double, input=twice)])
    return sum(both)


def timer(ctx: task.OrchestrationContext, value: int) -> Steps:
    yield ctx.create_timer(timedelta(milliseconds=30))
    result = yield ctx.call_activity(double, input=value)
    yield ctx.create_timer(timedelta(milliseconds=30))
    return result


def events(ctx: task.OrchestrationContext, value: int) -> Steps:
    seen: set[int] = set()
    while len(seen) < EVENTS:
        number = yield ctx.wait_for_external_event("number")
        seen.add(number)
    return value + sum(seen)


def parent(ctx: task.OrchestrationContext, value: int) -> Steps:
    first = yield ctx.call_sub_orchestrator(sequence, input=value)
    second = yield ctx.call_sub_orchestrator(timer, input=value)
    return first + second


def counting(ctx: task.OrchestrationContext, value: int) -> Steps:
    own = EntityInstanceId("counter", ctx.instance_id)
    shared = EntityInstanceId("counter", "shared")
    ctx.signal_entity(shared, "add", input=1)
    yield ctx.call_entity(own, "add", input=value)
    with (yield ctx.lock_entities([own, EntityInstanceId("counter", "locked")])):
        result = yield ctx.call_entity(own, "add", input=value)
        yield ctx.call_entity(EntityInstanceId("counter", "locked"), "add", input=1)
    return result


def generations(ctx: task.OrchestrationContext, value: int) -> Steps:
    if value % 10 < 3:
        result = yield ctx.call_activity(double, input=1)
        ctx.continue_as_new(value + result - 1, save_events=True)
        return None
    return value


def counter(ctx: EntityContext, data: int) -> int:
    state = ctx.get_state(int, 0) + (data if ctx.operation == "add" else 0)
    ctx.set_state(state)
    return state


def expected(kind: str, value: int) -> int:
    """Return the correct result."""
    return {
        "sequence": value * 16,
        "timer": value * 2,
        "events": value + 3,
        "parent": value * 18,
        "counting": value * 2,
        "generations": value + 3,
    }[kind]


def worker_for(database: Database) -> DirectWorker:
    logger = logging.getLogger("crash")
    logger.setLevel(logging.CRITICAL)
    worker = DirectWorker(database, logger=logger)
    for orchestrator in (sequence, timer, events, parent, counting, generations):
        worker.add_orchestrator(orchestrator)
    worker.add_activity(double)
    worker.add_entity(counter)
    return worker


def call(database: Database, method: str, request: Any) -> Any:
    reply = ThreadReply()
    database.call(method, request, reply)
    return reply.future.result(30)


def run(path: str, acknowledged: str, prefix: str, unfinished: list[tuple[str, list[int]]], load: bool) -> None:
    """Run load until killed.

    Each acknowledged call is a line in `acknowledged`, written before the next call.
    """
    database = Database(Path(path))
    database.start()
    worker_for(database).start()
    log = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, b"ready\n")

    def raise_number(instance_id: str, number: int) -> None:
        request = pb.RaiseEventRequest(instanceId=instance_id, name="number", input=StringValue(value=str(number)))
        try:
            call(database, "RaiseEvent", request)
        except Rejection:
            return  # the instance has ended: an earlier raise without acknowledgement took effect
        os.write(log, f"event {instance_id} {number}\n".encode())

    for instance_id, numbers in unfinished:
        for number in numbers:
            raise_number(instance_id, number)
    os.write(log, b"caught-up\n")
    number = 0
    while load:
        kind = random.choice(KINDS)
        number += 1
        value = number * 10
        instance_id = f"{kind}-{prefix}-{value}"
        request = pb.CreateInstanceRequest(instanceId=instance_id, name=kind, input=StringValue(value=str(value)))
        call(database, "StartInstance", request)
        os.write(log, f"start {instance_id}\n".encode())
        if kind == "events":
            for each in range(EVENTS):
                raise_number(instance_id, each)
    while True:
        time.sleep(60)
