"""Steps that are messages."""

from __future__ import annotations

from typing import Any

from bridge.workflow import Command, Saga, SagaAborted, Step
from tests.workflow.sagas import RETRY, simulate


def test_a_command_is_one_message_however_often_it_is_published() -> None:
    def body(one: Saga) -> Any:
        ask = Command("services", "stock.reserve", reply_to="replies", subject="tea", headers={"x": "y"})
        undo = Command("services", "stock.release")
        answer = yield from one.step(Step("stock", ask, {"sku": "tea"}, compensation=undo, retry=RETRY))
        raise SagaAborted("enough", answer["id"])

    done = simulate(body, {"bridge.publish": [(1.0, OSError("away")), (1.0, "id")]})
    while len(done.scheduled) < 2:
        done.turn()
    first, second = (one.input for one in done.scheduled)
    assert first == second
    assert (first["type"], first["subject"], first["data"]) == ("stock.reserve", "tea", {"sku": "tea"})
    headers = first["headers"]
    assert headers["reply-to"] == "replies"
    assert headers["x"] == "y"
    assert headers["correlation-id"][36:] == "@simulated"
    done.event(10.0, f"reply:{headers['correlation-id']}", {"id": "r-1"})
    done.run()
    undo = done.scheduled[-1].input
    assert done.output["detail"] == "r-1"
    assert undo["type"] == "stock.release"
    assert undo["headers"] == {"step-key": headers["step-key"]}
    assert undo["data"] == {"key": headers["step-key"], "input": {"sku": "tea"}, "result": {"id": "r-1"}, "known": True}
