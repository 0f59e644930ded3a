"""Shards of the lineage index: bounds, repeats, age, and what a search of them may miss."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.lineage.shards import (
    INSTANCE_ROW,
    MAX_SHARD_BYTES,
    ShardLimits,
    apply,
    find,
    hash_of,
    is_small,
    shard_of,
)

LIMITS = ShardLimits(3, 100.0)


def add(state: Any, *rows: tuple[str, float, str], now: float, ids: int = 3) -> Any:
    value = {"ids": ids, "age": 100.0, "rows": [[hash_of(id_), at, INSTANCE_ROW, it] for id_, at, it in rows]}
    return apply(state, "add", json.loads(json.dumps(value)), now)


def values(state: Any, *ids: str, now: float) -> list[str]:
    return [row[3] for row in find([state], {hash_of(id_) for id_ in ids}, LIMITS, now).rows]


def test_rows_are_found_by_the_hash_of_an_id() -> None:
    state = add(None, ("a", 1.0, "order-1"), ("b", 2.0, "order-2"), now=3.0).state
    assert values(state, "a", now=3.0) == ["order-1"]
    assert values(state, "a", "b", now=3.0) == ["order-1", "order-2"]
    assert values(state, "c", now=3.0) == []


def test_one_id_names_several_instances() -> None:
    state = add(None, ("a", 1.0, "order-1"), ("a", 1.0, "watch-1"), now=3.0).state
    assert values(state, "a", now=3.0) == ["order-1", "watch-1"]


def test_a_repeated_operation_changes_nothing() -> None:
    once = add(None, ("a", 1.0, "order-1"), ("b", 2.0, "order-2"), now=3.0).state
    assert add(once, ("a", 1.0, "order-1"), ("b", 2.0, "order-2"), now=3.0).state == once


def test_beyond_the_bound_the_oldest_go_and_the_shard_knows_since_when() -> None:
    first = add(None, ("a", 1.0, "1"), ("b", 2.0, "2"), ("c", 3.0, "3"), now=3.0)
    assert (first.removed, first.state["from"]) == (0, 1.0)
    second = add(first.state, ("d", 4.0, "4"), now=4.0)
    assert (second.removed, second.state["from"]) == (1, 1.0)
    third = add(second.state, ("e", 5.0, "5"), now=5.0)
    assert (third.removed, third.state["from"]) == (1, 2.0)
    assert find([third.state], {hash_of("a")}, LIMITS, 5.0) == find([third.state], {hash_of("none")}, LIMITS, 5.0)
    assert find([third.state], {hash_of("a")}, LIMITS, 5.0).since == 2.0


def test_a_shard_without_a_state_knows_nothing() -> None:
    state = add(None, ("a", 1.0, "1"), now=1.0).state
    assert find([state, None], {hash_of("a")}, LIMITS, 1.0).since is None
    assert len(find([state, None], {hash_of("a")}, LIMITS, 1.0).rows) == 1


def test_rows_end_by_age_without_a_further_message() -> None:
    change = add(None, ("a", 1.0, "1"), ("b", 50.0, "2"), now=50.0)
    assert change.wake == 101.0
    assert add(change.state, ("c", 51.0, "3"), now=51.0).wake is None, "one removal is due already"
    assert values(change.state, "a", now=101.5) == [], "a search does not show what is about to be removed"
    limits = {"ids": 3, "age": 100.0}
    later = apply(change.state, "expire", limits, 101.0)
    assert (later.expired, later.wake) == (1, 150.0)
    last = apply(later.state, "expire", limits, 150.0)
    assert (last.state, last.wake, last.expired) == (None, None, 1)


def test_removals_by_age_are_few() -> None:
    rows = [(str(n), n * 0.1, str(n)) for n in range(1000)]
    change, now, wakes = add(None, *rows, now=100.0, ids=1000), 100.0, 0
    while change.wake is not None:
        wakes, now = wakes + 1, change.wake
        change = apply(change.state, "expire", {"ids": 1000, "age": 100.0}, now)
    assert change.state is None
    assert wakes <= 11


def test_large_rows_stay_within_the_bytes_of_a_shard() -> None:
    rows = [(str(n), float(n), "x" * 8000) for n in range(200)]
    change = add(None, *rows, now=200.0, ids=10_000)
    assert len(json.dumps(change.state["rows"])) <= MAX_SHARD_BYTES
    assert change.removed > 0
    assert change.state["rows"][-1][1] == 199.0
    assert is_small([hash_of("a"), 1.0, 0, "x" * 8000])
    assert not is_small([hash_of("a"), 1.0, 0, "x" * 9000])


def test_unknown_operations_of_later_versions_change_nothing() -> None:
    state = add(None, ("a", 1.0, "1"), now=1.0).state
    assert apply(state, "later", {"x": 1}, 2.0).state == state
    assert apply(state, "add", None, 2.0).state == state


def test_another_number_of_shards_uses_other_entities() -> None:
    assert {shard_of(hash_of(str(n)), 4) for n in range(100)} == {"4.0", "4.1", "4.2", "4.3"}
    assert not {shard_of(hash_of(str(n)), 8) for n in range(100)} & {"4.0", "4.1", "4.2", "4.3"}
    # A row is found again by another process and a later version
    assert (hash_of("/shop c-1"), shard_of(hash_of("/shop c-1"), 64)) == ("l7-msPBMz_hn", "64.12")


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 300), st.sampled_from("12")), max_size=6),
        ),
        st.tuples(st.just("expire"), st.just([])),
    ),
    max_size=20,
)


@given(OPERATIONS, st.lists(st.floats(0, 20), min_size=20, max_size=20))
def test_bounds_hold_and_newest_rows_stay(operations: list[tuple[str, list[Any]]], steps: list[float]) -> None:
    state: Any = None
    now, tick = 0.0, None
    for (operation, given_rows), step in zip(operations, steps, strict=False):
        now += step
        rows = [(id_, min(at, now), value) for id_, at, value in given_rows]
        change = (
            add(state, *rows, now=now) if operation == "add" else apply(state, "expire", {"ids": 3, "age": 100.0}, now)
        )
        state = None if change.state is None else json.loads(json.dumps(change.state))
        tick = change.wake if change.wake is not None else tick
        if state is None:
            continue
        kept = state["rows"]
        assert len(kept) <= 3
        assert [row[1] for row in kept] == sorted(row[1] for row in kept)
        assert all(row[1] > now - 100.0 for row in kept)
        assert len({(row[0], row[3]) for row in kept}) == len(kept)
        assert tick is not None
        assert state["tick"] == tick, "while rows are kept, their removal is due"
        if rows:
            newest = max(rows, key=lambda row: row[1])
            if newest[1] > max((row[1] for row in kept), default=0.0):
                assert newest[1] <= now - 100.0
