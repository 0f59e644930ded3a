"""Pace of dead letters beyond the limit: the cost of a bad rule, and its end by a daemon's claim or a person."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.pace import CLAIM_SECONDS, LONGEST, SHORTEST, Paces

HOUR = 3600.0


def test_a_bad_rule_costs_at_most_twenty_messages_in_the_first_hour() -> None:
    paces = Paces()
    paces.limit("r", 0.0)
    now, written = 0.0, 0
    while now < HOUR:
        if paces.claim("r", "me", now):
            paces.wrote("r", now)
            written += 1
        now += 0.25
    assert 15 <= written <= 20
    assert paces["r"].pause == LONGEST


def test_pauses_double_and_successes_halve_them_until_the_route_is_free() -> None:
    paces = Paces()
    paces.limit("r", 0.0)
    for pause in (2.0, 4.0, 8.0):
        paces.wrote("r", 10.0)
        assert paces["r"].pause == pause
        assert paces["r"].due == 10.0 + pause
    for pause in (4.0, 2.0, 1.0):
        paces.ease("r", 11.0)
        assert paces["r"].pause == pause
        assert paces["r"].due <= 11.0 + pause
    paces.ease("r", 12.0)
    assert "r" not in paces
    assert paces.to_json() is None


def test_one_daemon_at_a_time_has_the_next_dead_letter() -> None:
    paces = Paces()
    paces.limit("r", 0.0)
    assert not paces.claim("r", "a", SHORTEST / 2), "not due"
    assert paces.claim("r", "a", SHORTEST)
    assert not paces.claim("r", "b", SHORTEST + 1)
    assert paces.claim("r", "a", SHORTEST + 1), "again by the same"
    assert paces.claim("r", "b", SHORTEST + 1 + CLAIM_SECONDS), "the claim has lapsed"
    paces.wrote("r", 100.0)
    assert not paces.claim("r", "b", 101.0)


def test_resume_ends_the_limit_of_one_route_or_of_all() -> None:
    paces = Paces()
    for route in ("a", "b", "c"):
        paces.limit(route, 0.0)
    paces.resume("b")
    assert list(paces) == ["a", "c"]
    paces.resume(None)
    assert not len(paces)
    assert not paces.claim("a", "me", 10.0)
    paces.wrote("a", 10.0)
    paces.ease("a", 10.0)
    assert not len(paces), "nothing late limits it again"


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["limit", "claim", "wrote", "ease"]), st.sampled_from("ab"), st.floats(0, 1e6)),
    max_size=60,
)


@given(OPERATIONS)
def test_state_survives_json_and_stays_within_its_bounds(operations: list[tuple[str, str, float]]) -> None:
    paces = Paces()
    for name, route, now in operations:
        if name == "claim":
            paces.claim(route, "me", now)
        else:
            getattr(paces, name)(route, now)
        again = Paces(json.loads(json.dumps(paces.to_json())))
        assert again.to_json() == paces.to_json()
        paces = again
        for each in paces:
            assert SHORTEST <= paces[each].pause <= LONGEST
            assert paces[each].due <= now + LONGEST or name != "wrote" or each != route
