import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.message import Envelope, Position
from bridge.routing.index import RuleIndex, reader
from tests.kit.examples import examples
from tests.routing.config import envelope

ATTRIBUTES = ["type", "source", "subject", "id", "topic", "key", "datacontenttype", "dataschema"]
KEYS = [*ATTRIBUTES, "headers.h", "extensions.e", "payload.p", "payload.p.q"]
texts = st.sampled_from(["a", "b", "1", "true"])
scalars = st.one_of(texts, st.sampled_from([1, 0, 1.0, 0.0, True, False, 2**70, 0.5, math.nan]))
matches = st.dictionaries(
    st.sampled_from(KEYS), st.one_of(scalars, st.lists(scalars, min_size=1, max_size=3).map(tuple)), max_size=4
)
leaves = st.one_of(scalars, st.none(), st.just([1]))
payloads = st.one_of(
    leaves, st.fixed_dictionaries({}, optional={"p": st.one_of(leaves, st.just({"q": 1}), st.just({"q": True}))})
)
optional = st.one_of(st.none(), texts)
envelopes = st.builds(
    Envelope,
    message_id=st.just("m"),
    id=texts,
    source=texts,
    type=texts,
    data=payloads,
    position=st.builds(Position, st.just("c"), texts, st.just(0), st.just(0)),
    subject=optional,
    datacontenttype=optional,
    dataschema=optional,
    key=optional,
    headers=st.dictionaries(st.sampled_from(["h", "H"]), texts),
    extensions=st.dictionaries(st.just("e"), scalars),
)

NOTHING = object()


def actual(key: str, message: Envelope) -> Any:
    if key == "topic":
        return message.position.topic
    if key in ATTRIBUTES:
        return getattr(message, key)
    room, *path = key.split(".")
    value: Any = {"headers": message.headers, "extensions": message.extensions, "payload": message.data}[room]
    for name in path:
        value = value.get(name, NOTHING) if isinstance(value, dict) else NOTHING
    return value


def equal(wanted: Any, found: Any) -> bool:
    """Compare by JSON equality: types are distinct, except the two number types."""
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, str) or isinstance(found, str):
        return isinstance(wanted, str) and isinstance(found, str) and wanted == found
    return isinstance(found, int | float) and bool(wanted == found)


def naive(rules: list[dict[str, Any]], message: Envelope) -> list[int]:
    return [
        position
        for position, match in enumerate(rules)
        if all(
            any(equal(one, actual(key, message)) for one in (wanted if isinstance(wanted, tuple) else (wanted,)))
            for key, wanted in match.items()
        )
    ]


@settings(max_examples=examples(600), deadline=None)
@given(st.lists(matches, max_size=12), envelopes)
def test_the_index_finds_what_a_scan_finds(rules: list[dict[str, Any]], message: Envelope) -> None:
    assert list(RuleIndex(rules).candidates(message)) == naive(rules, message)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS[:4]), texts, max_size=3), max_size=8), envelopes)
def test_values_with_too_many_combinations_are_tested_one_by_one(
    rules: list[dict[str, Any]], message: Envelope
) -> None:
    many = ("a", "b", *(f"x{number}" for number in range(40)))
    wide = [match | {"headers.h": many, "payload.p": many, "extensions.e": many} for match in rules]
    assert list(RuleIndex(wide).candidates(message)) == naive(wide, message)


def test_a_wide_rule_stays_small() -> None:
    many = tuple(f"x{number}" for number in range(500))
    index = RuleIndex([{"headers.a": many, "headers.b": many, "headers.c": many}])
    assert list(index.candidates(envelope(headers={"a": "x1", "b": "x2", "c": "x499"}))) == [0]
    assert list(index.candidates(envelope(headers={"a": "x1", "b": "x2", "c": "y"}))) == []
    assert sum(len(table) for _, table in index._remaining.single.values()) <= 500


def test_a_repeated_value_gives_a_rule_once() -> None:
    index = RuleIndex([{"type": ("a", "a"), "key": ("k", "k")}, {"payload.n": (1, 1.0, True)}])
    assert list(index.candidates(envelope({"n": 1}, type="a", key="k"))) == [0, 1]


def test_later_candidates_are_not_computed() -> None:
    class Counted(dict[str, Any]):
        reads = 0

        def get(self, key: str, default: Any = None) -> Any:
            Counted.reads += 1
            return super().get(key, default)

    rules = [{"type": f"t{number}", "headers.h": "1"} for number in range(2000)]
    message = envelope(type="t7", headers=Counted(h="1"))
    assert list(RuleIndex(rules).candidates(message)) == [7]
    assert Counted.reads == 1


@pytest.mark.parametrize("key", ["typ", "headers", "headers.", "payload.", "payload.a..b", "data.x", ""])
def test_unknown_keys(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be matched"):
        reader(key)


def test_a_payload_that_is_no_map_and_one_that_is_not_hashable() -> None:
    index = RuleIndex([{"payload.a": 1}, {"payload.a.b": 1}])
    for data in ("text", b"x", [1], {"a": [1]}, {"a": {"b": {}}}, 7):  # type: ignore[var-annotated]  # wider than its annotation, on purpose
        assert list(index.candidates(envelope(data))) == []


def test_nan_matches_nothing_not_even_itself() -> None:
    message = envelope(None, extensions={"e": math.nan})
    assert list(RuleIndex([{"extensions.e": math.nan}, {"extensions.e": [math.nan, 1]}]).candidates(message)) == []
