"""A rewound saga continues from its failure; a saga that has handled its failure is not rewound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.engines.embedded.inprocess import InProcessChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.protocol.service import SidecarService
from bridge.workflow import (
    PUBLISH_ACTIVITY,
    Child,
    CompensationInput,
    DataConverter,
    Saga,
    SagaOutcome,
    Step,
    StepFailed,
    StepInput,
    message_aware,
    publishing,
)
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.rewind import retries
from tests.sqlite_engine.test_worker import quiet

TRIES = retries(3)


class Shop:
    """Activities of a saga, with the names of those that ran. broken: fail always. failures: remaining failures."""

    def __init__(self, restartable: Restartable) -> None:
        self.restartable = restartable
        self.broken: set[str] = set()
        self.failures: Counter[str] = Counter()
        self.runs: list[str] = []
        self.keys: set[str] = set()
        self.published: list[Any] = []
        self.orchestrators: list[Any] = []
        self._worker: DirectWorker | None = None

    def _run(self, name: str) -> str:
        self.runs.append(name)
        if name in self.broken or self.failures[name] > 0:
            self.failures[name] -= 1
            raise ConnectionError(f"{name} is away")
        return name

    def serve(self, *orchestrators: Any) -> None:
        """Start a worker with these orchestrators, in place of the previous one."""
        if self._worker is not None:
            self._worker.stop()
            self.restartable.again()
        self.client = TaskHubGrpcClient(
            channel=InProcessChannel(SidecarService(self.restartable.now)),
            logger=quiet(),
            data_converter=DataConverter(),
        )
        worker = DirectWorker(self.restartable.now, logger=quiet(), data_converter=DataConverter())

        def forward(ctx: task.ActivityContext, call: StepInput) -> str:
            self.keys.add(call.key)
            return self._run(str(call.input))

        def undo(ctx: task.ActivityContext, call: CompensationInput) -> str:
            return self._run(f"undo {call.input}")

        def publish(ctx: task.ActivityContext, published: dict[str, Any]) -> str:
            self._run("publish")
            self.published.append(published)
            return str(published["id"])

        def stock(ctx: EntityContext, amount: int) -> int:
            ctx.set_state(ctx.get_state(int, 0) + amount)
            return ctx.get_state(int, 0)

        for activity in (forward, undo):
            worker.add_activity(activity)
        worker._registry.add_named_activity(PUBLISH_ACTIVITY, publish)
        worker.add_entity(stock)
        for each in orchestrators:
            worker._registry.add_named_orchestrator(each.__name__, message_aware(each))
        worker.start()
        self._worker = worker

    def ended(self) -> OrchestrationStatus:
        found = self.client.wait_for_orchestration_completion("i", timeout=TIMEOUT)
        assert found is not None
        return found.runtime_status

    def repair(self) -> None:
        self.broken.clear()
        self.failures.clear()
        self.runs.clear()

    def outcome(self) -> Any:
        assert self.ended() == OrchestrationStatus.COMPLETED, self.client.get_orchestration_state("i").failure_details
        return self.client.get_orchestration_state("i").get_output(dict)

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()


@pytest.fixture
def shop(restartable: Restartable) -> Iterator[Shop]:
    found = Shop(restartable)
    yield found
    found.stop()


def step(name: str, **options: Any) -> Step:
    return Step(name, "forward", name, compensation="undo", retry=TRIES, compensation_retry=TRIES, **options)


def part(ctx: task.OrchestrationContext, call: StepInput) -> Any:
    saga = Saga(ctx, "part")

    def body() -> Any:
        return (yield from saga.step(step("inner")))

    return (yield from saga.run(body())).result


def order(ctx: task.OrchestrationContext, _: Any) -> Any:
    """Saga with retries, a fan-out, a child, a lock, a timer, and handled failures."""
    saga = Saga(ctx, "order", publish_outcome="results")

    def body() -> Any:
        yield from saga.step(step("first"))
        with suppress(StepFailed):
            yield from saga.step(step("optional"))
        with (yield ctx.lock_entities([EntityInstanceId("stock", "tea")])):
            yield ctx.call_entity(EntityInstanceId("stock", "tea"), "take", 1)
        yield from saga.parallel([step("left"), step("right")])
        yield from saga.step(Step("part", Child("part"), None, retry=TRIES))
        yield ctx.create_timer(timedelta(milliseconds=1))
        return (yield from saga.step(step("last")))

    return (yield from saga.run(body()))


@pytest.mark.parametrize("compensated", [False, True])
def test_an_outcome_that_could_not_be_published_is_published_then(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, compensated: bool
) -> None:
    monkeypatch.setattr(publishing, "DEFAULT_RETRY", TRIES)
    shop.serve(order, part)
    shop.failures.update({"first": 1, "left": 2, "inner": 1})
    shop.broken |= {"optional", "publish", *(["last"] if compensated else [])}
    shop.client.schedule_new_orchestration("order", instance_id="i")
    assert shop.ended() == OrchestrationStatus.FAILED
    shop.repair()
    shop.failures["publish"] = 2  # the retry policy of the publication starts again
    shop.client.rewind_orchestration("i")
    outcome = shop.outcome()
    assert outcome["status"] == ("compensated" if compensated else "completed")
    assert shop.runs == ["publish"] * 3
    assert [each["type"] for each in shop.published] == [f"order.{outcome['status']}"]


def test_code_that_is_brought_back_goes_on(shop: Shop) -> None:
    def paid(ctx: task.OrchestrationContext, _: Any) -> Any:
        saga = Saga(ctx, "paid")

        def body() -> Any:
            yield from saga.step(step("first"))
            yield from saga.parallel([step("left"), step("right")])
            yield from saga.wait_for_event("paid")
            return (yield from saga.step(step("last")))

        return (yield from saga.run(body()))

    def changed(ctx: task.OrchestrationContext, _: Any) -> Any:
        yield ctx.create_timer(timedelta(milliseconds=1))
        return (yield from paid(ctx, _))

    changed.__name__ = "paid"
    shop.serve(paid)
    shop.failures.update({"first": 2, "right": 1})
    shop.client.schedule_new_orchestration("paid", instance_id="i")
    while '"right": "completed"' not in (shop.client.get_orchestration_state("i").serialized_custom_status or ""):
        assert shop.client.get_orchestration_state("i").runtime_status != OrchestrationStatus.FAILED
    shop.serve(changed)
    shop.client.raise_orchestration_event("i", "paid", data=True)
    assert shop.ended() == OrchestrationStatus.FAILED
    keys = set(shop.keys)
    shop.serve(paid)
    shop.repair()
    shop.client.rewind_orchestration("i")
    assert shop.outcome()["status"] == "completed"
    assert shop.runs == ["last"]
    assert {key.partition("/")[0] for key in shop.keys} == {key.partition("/")[0] for key in keys}


def bought(ctx: task.OrchestrationContext, _: Any) -> Any:
    saga = Saga(ctx, "bought")

    def body() -> Any:
        yield from saga.step(step("first"))
        yield from saga.step(step("last"))

    outcome: SagaOutcome = yield from saga.run(body())
    if outcome.status != "completed":
        raise RuntimeError(outcome.reason)


def buggy(ctx: task.OrchestrationContext, _: Any) -> Any:
    saga = Saga(ctx, "buggy")

    def body() -> Any:
        yield from saga.step(step("first"))
        raise KeyError("a bug")

    yield from saga.run(body())


@pytest.mark.parametrize("orchestrator", [bought, buggy])
def test_a_saga_that_compensated_is_not_rewound(shop: Shop, orchestrator: Any) -> None:
    shop.serve(orchestrator)
    shop.broken.add("last")
    shop.client.schedule_new_orchestration(orchestrator.__name__, instance_id="i")
    assert shop.ended() == OrchestrationStatus.FAILED
    assert "undo first" in shop.runs
    shop.repair()
    with pytest.raises(grpc.RpcError, match=r"its saga has handled the failure \(status compensated\)"):
        shop.client.rewind_orchestration("i")
    assert shop.ended() == OrchestrationStatus.FAILED
    assert shop.runs == []


def hand_written(ctx: task.OrchestrationContext, _: Any) -> Any:
    """Run a journal of compensations, as docs/sagas.md shows it."""
    undo: list[str] = []
    try:
        for name in ("reserve", "ship", "charge"):
            undo.append(name)
            yield ctx.call_activity("forward", input=StepInput("key", name), retry_policy=TRIES)
        return "completed"
    except task.TaskFailedError:
        for name in reversed(undo):
            call = CompensationInput("key", name, None, known=True)
            yield ctx.call_activity("undo", input=call, retry_policy=TRIES)
        return "compensated"


def test_an_undo_that_failed_for_good_goes_on_from_there(shop: Shop) -> None:
    shop.serve(hand_written)
    shop.failures.update({"reserve": 2, "undo charge": 1})
    shop.broken |= {"charge", "undo ship"}
    shop.client.schedule_new_orchestration("hand_written", instance_id="i")
    assert shop.ended() == OrchestrationStatus.FAILED
    shop.repair()
    shop.failures["undo ship"] = 2
    shop.client.rewind_orchestration("i")
    assert shop.ended() == OrchestrationStatus.COMPLETED
    assert shop.runs == ["undo ship"] * 3 + ["undo reserve"]
