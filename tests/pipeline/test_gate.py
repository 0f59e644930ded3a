from __future__ import annotations

from bridge.config.model.sources import LimitsConfig
from bridge.pipeline.flow_control import FlowControl
from tests.pipeline.deliveries import Part

LIMITS = LimitsConfig(max_in_flight=100, max_in_flight_bytes=1000, max_gap=10)


def is_open(gate: FlowControl) -> bool:
    return gate._open.is_set()


async def test_full_at_the_high_mark_open_again_at_the_low() -> None:
    gate = FlowControl("orders", LIMITS)
    gate.measure(99, 999)
    assert is_open(gate)
    gate.measure(100, 0)
    assert not is_open(gate)
    gate.measure(76, 0)
    assert not is_open(gate)
    gate.measure(75, 0)
    assert is_open(gate)
    gate.measure(1, 1000)
    assert not is_open(gate)


async def test_every_hold_must_go_before_it_opens() -> None:
    gate = FlowControl("orders", LIMITS)
    gate.hold("engine default", "away")
    gate.hold("broker", "away")
    gate.release("broker")
    assert not is_open(gate)
    gate.measure(100, 0)
    gate.release("engine default")
    assert not is_open(gate)
    gate.measure(0, 0)
    assert is_open(gate)


async def test_a_partition_pauses_at_its_gap_and_resumes_below_it() -> None:
    gate, part = FlowControl("orders", LIMITS), Part()
    part.gap = 9
    gate.fetched(part)
    assert not part.paused
    part.gap = 10
    gate.fetched(part)
    assert part.paused
    part.gap = 8
    gate.settled(part)
    assert part.paused
    part.gap = 7
    gate.settled(part)
    assert not part.paused
    assert not gate.paused
