"""Choice between the present rules and a candidate: keys, shares, and keys with messages in flight."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.canary import AFTER, BRIDGE, MAX_DAEMONS, OTHERS, CanaryCounts, CanaryRecord, selected
from bridge.core.commands import Decision
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.canary import CanaryRules
from bridge.pipeline.rule_set import RuleSet
from tests.kit.examples import examples

KEYS = st.binary(max_size=8) | st.text(max_size=8) | st.tuples(st.text(max_size=4), st.integers(0, 9))


def rule_set(version: str) -> RuleSet:
    nothing = cast(Any, None)
    return RuleSet(version, nothing, nothing, RetryPolicy(), {})


async def nothing_started(decision: Decision) -> bool | None:
    return None


async def test_a_reload_keeps_the_link_between_both_rules() -> None:
    async def started_by_the_candidate(decision: Decision) -> bool | None:
        return True

    rules = CanaryRules(PRESENT)
    rules.use(CANDIDATE, 1.0, started_by_the_candidate)
    assert rules.candidate is not None
    rules.replace(rule_set("reloaded"))
    assert rules.current.version == "reloaded"
    assert rules.current.follow is not None
    assert rules.candidate.follow is not None
    assert await rules.current.follow(Decision((), ())) is rules.candidate
    assert await rules.candidate.follow(Decision((), ())) is None
    before = rules.current
    rules.leave()
    assert (rules.current.version, rules.current.follow, rules.candidate) == ("reloaded", None, None)
    assert before.follow is not None, "deliveries in flight keep their link"
    rules.leave()


PRESENT, CANDIDATE = rule_set("present"), rule_set("candidate")


@given(KEYS, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=examples(300))
def test_a_larger_share_contains_a_smaller_one(key: Hashable, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert selected(key, "v", large) or not selected(key, "v", small)
    assert not selected(key, "v", 0.0)
    assert selected(key, "v", 1.0)


def test_the_share_of_many_keys_and_one_form_of_text_and_bytes() -> None:
    keys = [f"key-{number}" for number in range(20_000)]
    assert 900 <= sum(selected(key, "v", 0.05) for key in keys) <= 1100
    assert all(selected(key, "v", 0.5) == selected(key.encode(), "v", 0.5) for key in keys[:1000])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrives", "leaves", "on", "off", "other", "none", "reload"]),
            st.sampled_from([b"a", b"b", b"c", b"d"]),
        ),
        max_size=60,
    ),
    st.sampled_from([0.3, 0.6, 1.0]),
)
@settings(max_examples=examples(500))
def test_a_key_never_changes_while_something_of_it_is_in_flight(steps: list[tuple[str, bytes]], share: float) -> None:
    lanes: dict[bytes, list[RuleSet]] = {}
    rules = CanaryRules(PRESENT)
    rules.use(CANDIDATE, share, nothing_started)
    is_active = False
    versions = count()
    rules.observe(lambda: [(key, lane[-1]) for key, lane in lanes.items()], lambda key: key in lanes)
    for step, key in steps:
        if step == "arrives":
            chosen = rules.choose(key)
            if key in lanes:
                # Only a reload changes the present rules behind messages in flight, and no key moves to the other side
                side = lanes[key][-1].version.partition("-")[0]
                assert chosen is lanes[key][-1] or (side == "present" and chosen is rules.current)
            else:
                wanted = is_active and rules.candidate and selected(key, rules.candidate.version, share)
                assert chosen is (rules.candidate if wanted else rules.current)
            lanes.setdefault(key, []).append(chosen)
        elif step == "leaves":
            if key in lanes:
                lanes[key].pop(0)
                if not lanes[key]:
                    del lanes[key]
        elif step == "other":
            rules.use(rule_set(f"candidate-{next(versions)}"), share, nothing_started)
            is_active = False
        elif step == "none":
            rules.leave()
            is_active = False
        elif step == "reload":
            rules.replace(rule_set(f"present-{next(versions)}"))
        else:
            is_active = step == "on"
            rules.activate(is_active)
    assert rules.choose(None) is rules.current


COUNTS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    round=st.integers(0, 2),
    daemon=st.sampled_from(["a", "b", "c"]),
    messages=st.integers(0, 100),
    dead_letters=st.integers(0, 20),
    failed=st.integers(0, 20),
    after=st.just(AFTER),
    failures=st.just(0.1),
    at=st.just(1.0),
)
OPERATIONS = st.lists(
    st.tuples(st.just("count"), COUNTS)
    | st.just(("abort", {"at": 2.0, "by": "ada", "reason": ""}))
    | st.just(("resume", {}))
    | st.just(("later", {})),
    max_size=20,
)


@given(OPERATIONS)
@settings(max_examples=examples(500))
def test_the_record_falls_back_once_after_enough_messages(operations: list[tuple[str, dict[str, Any]]]) -> None:
    record = CanaryRecord()
    for operation, value in operations:
        before, record = record, record.applied(operation, value)
        assert CanaryRecord.of(record.to_json()) == record
        assert record.applied(operation, value) == record or operation == "resume", "a repetition changes nothing"
        if operation == "resume":
            assert record == CanaryRecord(before.round + 1)
        elif before.fallback is not None:
            assert record.fallback == before.fallback
        elif record.fallback is not None and record.fallback.by == BRIDGE:
            total = record.total
            assert total.messages >= AFTER
            assert total.failures > 0.1 * total.messages


def test_the_number_of_daemons_is_bounded() -> None:
    record = CanaryRecord()
    for number in range(MAX_DAEMONS + 20):
        value = {"round": 0, "daemon": f"d{number}", "messages": 1, "dead_letters": 0, "failed": 0, "after": 50}
        record = record.applied("count", value | {"failures": 0.5, "at": 0.0})
    assert len(record.counts) == MAX_DAEMONS
    assert record.total == CanaryCounts(MAX_DAEMONS + 20)
    assert record.counts[OTHERS].messages == 21
