"""Balance of activities between workers."""

from __future__ import annotations

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.processes.greeting import Greeting
from bridge.sqlite_engine.hub.balance import IDLE_SECONDS, Balance
from bridge.sqlite_engine.hub.leases import ACTIVITY, WorkerStream


class RecalledStream(WorkerStream):
    """WorkerStream that holds activities, all of which its worker may return."""

    def __init__(self, held: int, *names: str) -> None:
        request = pb.GetWorkItemsRequest()
        request.workItemFilters.activities.extend(pb.ActivityFilter(name=name) for name in names)
        super().__init__(request, lambda _: None)
        self.hold(held)
        self.recalls = 0

    def hold(self, number: int) -> None:
        self.free[ACTIVITY] = self.credits[ACTIVITY] - number
        self.leases = {str(each) for each in range(number)}

    def recall(self) -> bool:
        self.recalls += 1
        return self.recalls == 1


def test_the_busiest_worker_is_asked_when_another_one_has_been_idle_for_a_while() -> None:
    balance, idle, busy, busiest = Balance(), RecalledStream(0), RecalledStream(5), RecalledStream(6)
    streams = [idle, busy, busiest]
    balance.check(streams, 10.0)
    assert balance.due == 10.0 + IDLE_SECONDS
    balance.check(streams, 10.0 + IDLE_SECONDS)
    assert (busy.recalls, busiest.recalls) == (0, 1)
    assert balance.due is None
    balance.check(streams, 11.0)
    assert busy.recalls == 1, "the busiest one has nothing further"


def test_a_worker_that_had_work_meanwhile_is_not_idle() -> None:
    balance, idle, busy = Balance(), RecalledStream(0), RecalledStream(5)
    balance.check([idle, busy], 10.0)
    idle.hold(1)
    balance.check([idle, busy], 10.0 + IDLE_SECONDS)
    assert balance.due is None
    idle.hold(0)
    balance.check([idle, busy], 11.0)
    assert (busy.recalls, balance.due) == (0, 11.0 + IDLE_SECONDS)


@pytest.mark.parametrize(("held", "name"), [(1, "work"), (0, "work"), (5, "other")])
def test_nothing_is_asked_of_a_worker_with_one_activity_or_with_others(held: int, name: str) -> None:
    balance, idle, busy = Balance(), RecalledStream(0, "work"), RecalledStream(held, name)
    for moment in (10.0, 11.0):
        balance.check([idle, busy], moment)
        assert (busy.recalls, balance.due) == (0, None)


def test_a_worker_of_an_earlier_version_is_not_asked() -> None:
    document = Greeting((1, 1), 1, None).document()
    assert Greeting.parse(document).recalls
    del document["recalls"]
    assert not Greeting.parse(document).recalls
