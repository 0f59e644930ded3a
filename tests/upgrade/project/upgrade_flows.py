"""Workflows whose instances stop in every state that an instance can be in.

Work that is to hold does so until the file `open` lies beside this module. Every effect of a saga is a line of
`effects.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.entities import DurableEntity, EntityInstanceId

from bridge.workflow import (
    Child,
    Command,
    CompensationInput,
    Entity,
    Inbox,
    Saga,
    Step,
    StepInput,
    continue_as_new,
    publish,
    request,
    wait_for_message,
)

HERE = Path(__file__).parent
LATER = timedelta(seconds=150)
BRIEF = task.RetryPolicy(first_retry_interval=LATER, max_number_of_attempts=3)


def opened() -> bool:
    return (HERE / "open").exists()


def note(what: str, step: str, key: str) -> None:
    with (HERE / "effects.jsonl").open("a") as effects:
        effects.write(json.dumps({"what": what, "step": step, "key": key}) + "\n")
        effects.flush()
        os.fsync(effects.fileno())


def hold() -> None:
    while not opened():
        time.sleep(0.02)


def do(ctx: task.ActivityContext, call: StepInput) -> str:
    given = call.input
    step = given["step"]
    note("do", step, call.key)
    if given.get("hold") == step:
        hold()
    if given.get("flaky") == step and not opened():
        raise ConnectionError("not yet")
    if given.get("fail") == step:
        raise ValueError("never")
    return f"{step} done"


def undo(ctx: task.ActivityContext, call: CompensationInput) -> None:
    step = call.input["step"]
    note("undo", step, call.key)
    if call.input.get("hold_undo") == step:
        hold()


def plain(ctx: task.ActivityContext, given: dict[str, Any]) -> Any:
    if given.get("hold"):
        hold()
    if given.get("flaky") and not opened():
        raise ConnectionError("not yet")
    if given.get("fail"):
        raise ValueError("never")
    return given.get("returns", "done")


class Stock(Entity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)

    def get(self) -> int:
        return int(self.get_state(int, 0))


class Tally(DurableEntity):
    def add(self, amount: int) -> int:
        total = self.get_state(int, 0) + amount
        self.set_state(total)
        return int(total)


def recorded(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    return (yield from FLOWS[plan["flow"]](ctx, plan))


def works(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    return (yield ctx.call_activity(plain, input=plan))


def retries(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    return (yield ctx.call_activity(plain, input={"flaky": True}, retry_policy=BRIEF))


def fans(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    calls = [ctx.call_activity(plain, input={"returns": n, "hold": n == 2}) for n in range(4)]
    return (yield task.when_all(calls))


def rings(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    timer = ctx.create_timer(timedelta(seconds=plan["seconds"]))
    item = ctx.wait_for_external_event("item")
    first = yield task.when_any([timer, item])
    return "rang" if first is timer else item.get_result()


def collects(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    got = []
    while len(got) < plan["count"]:
        got.append((yield from wait_for_message(ctx, "item")).data)
        ctx.set_custom_status(len(got))
    return got


def buffers(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    first = yield ctx.wait_for_external_event("first")
    second = yield ctx.wait_for_external_event("second")
    return [first, second]


def calls(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    child = {"flow": "works", "hold": True, "returns": "of the child"}
    return (yield ctx.call_sub_orchestrator(recorded, input=child, instance_id=f"{ctx.instance_id}-child"))


def generations(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    got = plan.get("got", [])
    inbox = Inbox(ctx)
    while True:
        item = inbox.task("item")
        yield item
        message = inbox.accept(item)
        if message is not None:
            break
    got = [*got, message.data]
    if len(got) == 4:
        return got
    continue_as_new(ctx, {**plan, "got": got})
    return None


def locks(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    tally = EntityInstanceId("tally", "shared")
    with (yield ctx.lock_entities([tally])):
        ctx.set_custom_status("locked")
        yield ctx.wait_for_external_event("item")
        return (yield ctx.call_entity(tally, "add", 1))


def asks(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    answer = yield from request(ctx, "service", plan["id"], type="question", reply_to="answers")
    yield publish(ctx, "results", answer, type="answered", subject=plan["id"])
    return answer


def papers(ctx: task.OrchestrationContext, call: dict[str, Any]) -> Any:
    return (yield ctx.call_activity(do, input=StepInput(call["key"], {**call["input"], "step": "papers"})))


def trip(ctx: task.OrchestrationContext, plan: dict[str, Any]) -> Any:
    """Steps of each kind: activity, parallel group, command with an answer, child; then no way back, and one more."""
    saga = Saga(ctx, "trip", publish_outcome="results")

    def given(name: str) -> dict[str, Any]:
        return {"step": name, **{word: plan[word] for word in ("hold", "flaky", "fail", "hold_undo") if word in plan}}

    def step(name: str, retry: task.RetryPolicy | None = None) -> Step:
        return Step(name, do, given(name), compensation=undo, retry=retry)

    def body() -> Any:
        if "waits" in plan:
            seconds = plan["waits"]
            yield from saga.wait_for_event("item", None if seconds is None else timedelta(seconds=seconds))
        yield from saga.step(step("stock", BRIEF))
        if "waits_between" in plan:
            yield from saga.wait_for_event("item", timedelta(seconds=plan["waits_between"]))
        yield from saga.parallel([step("flight"), step("hotel")])
        pay, void = (Command("service", f"payment.{word}", reply_to="answers") for word in ("take", "void"))
        yield from saga.step(Step("payment", pay, {"trip": ctx.instance_id}, compensation=void))
        yield from saga.step(Step("papers", Child(papers), given("papers"), compensation=undo))
        saga.point_of_no_return()
        yield from saga.step(step("parcel"))
        return "arrived"

    return (yield from saga.run(body()))


FLOWS = {
    flow.__name__: flow
    for flow in (works, retries, fans, rings, collects, buffers, calls, generations, locks, asks, trip)
}
