"""Sums over daemons, rates, and the lines that need a person."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import click
import pytest

from bridge.cli import root
from bridge.core.states import READY, STATES
from bridge.ops.status import _NEXT, _SENTENCES, Rates, age, merge, problems

SOURCE: dict[str, Any] = {
    "name": "orders",
    "state": "idle",
    "since": "2030-01-01T00:00:00.000Z",
    "seconds": 5.0,
    "detail": "",
    "daemons": [{"daemon": "a/1", "state": "idle", "detail": ""}],
    "partitions": 2,
    "held_by": [],
    "lag": 3,
    "oldest_seconds": 1.5,
    "received_per_second": 0.1,
    "settled_per_second": 0.2,
    "in_flight": 4,
    "retrying": 1,
    "received": 10,
    "abandoned": 1,
    "outcomes": {"executed": 5},
    "dead_letters": {"no_route": 1},
}
ENGINE: dict[str, Any] = {
    "name": "default",
    "id": "e1",
    "state": "up",
    "since": "2030-01-01T00:00:00.000Z",
    "seconds": 5.0,
    "detail": "",
    "daemons": [{"daemon": "a/1", "state": "up", "detail": ""}],
    "place": "durable",
    "durable": True,
    "counted": "2030-01-01T00:00:00.000Z",
    "early": {"messages": 2, "oldest_seconds": 60.0},
    "quarantined": [{"source": "orders", "keys": 3, "messages": 5, "oldest_seconds": 4000.0, "overdue": 0}],
    "counts": {"instances": [], "ended_today": [], "sagas": [], "sagas_today": [], "failed": {}, "failed_today": {}},
}
DAEMON: dict[str, Any] = {"id": "a/1", "answered": True, "ready": True, "config": {"version": "v", "since": "x"}}


def document(
    daemon: str = "a/1",
    source: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    components: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    parts = [SOURCE | (source or {}), ENGINE | (engine or {})]
    for part in (*parts, *components):
        part["daemons"] = [{"daemon": daemon, "state": part["state"], "detail": part["detail"]}]
    return merge(
        [
            {
                "time": "2030-01-01T00:00:00.000Z",
                "daemons": [DAEMON | {"id": daemon}],
                "sources": [parts[0]],
                "engines": [parts[1]],
                "components": list(components),
            }
        ]
    )


def test_what_adds_up_is_added_up() -> None:
    first = document()
    second = document("b/2", {"lag": None, "oldest_seconds": 9.0, "dead_letters": {"no_route": 1, "decode_error": 2}})
    before = deepcopy((first, second))
    both = merge([first, second])
    assert (first, second) == before
    [source] = both["sources"]
    assert (both["asked"], both["answered"]) == (2, 2)
    assert (source["partitions"], source["lag"], source["oldest_seconds"]) == (4, 3, 9.0)
    assert (source["received"], source["in_flight"], source["retrying"], source["abandoned"]) == (20, 8, 2, 2)
    assert (source["received_per_second"], source["settled_per_second"]) == (0.2, 0.4)
    assert source["outcomes"] == {"executed": 10}
    assert source["dead_letters"] == {"no_route": 2, "decode_error": 2}
    [engine] = both["engines"]
    assert engine["early"]["messages"] == 2, "a fact of the engine, and not of the daemons"
    assert [each["daemon"] for each in engine["daemons"]] == ["a/1", "b/2"]
    assert merge([both]) == both
    assert both["problems"] == []


def test_the_order_of_answers_does_not_matter() -> None:
    parts = [document(), document("b/2", {"state": "held", "seconds": 90.0, "held_by": ["broker"], "detail": "away"})]
    forward, backward = merge(parts), merge(parts[::-1])
    assert [each["text"] for each in forward["problems"]] == [each["text"] for each in backward["problems"]]
    assert forward["sources"][0]["state"] == backward["sources"][0]["state"] == "held"


def test_engines_of_one_name_in_two_places_are_two() -> None:
    both = merge([document(), document("b/2", engine={"id": "e2"})])
    assert [each["id"] for each in both["engines"]] == ["e1", "e2"]


def test_the_newest_count_of_waiting_messages_is_shown() -> None:
    newer = {"counted": "2030-01-01T00:00:09.000Z", "early": {"messages": 7, "oldest_seconds": 1.0}}
    for parts in ([document(), document("b/2", engine=newer)], [document(engine=newer), document("b/2")]):
        assert merge(parts)["engines"][0]["early"]["messages"] == 7
    never = document("b/2", engine={"counted": None, "early": None, "quarantined": None})
    assert merge([never, document()])["engines"][0]["early"]["messages"] == 2


def test_a_daemon_without_an_answer_is_a_problem_that_names_it() -> None:
    silent = {"id": "b/2", "answered": False, "detail": "no answer within 5 s", "next": "ps -p 2"}
    found = merge([document()], [silent])
    assert (found["asked"], found["answered"]) == (2, 1)
    assert found["problems"] == [
        {"subject": "daemon b/2", "text": "daemon b/2: no answer within 5 s", "next": "ps -p 2"}
    ]


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"state": "held", "seconds": 5.0, "held_by": ["engine default"]}, 0),
        ({"state": "held", "seconds": 61.0, "held_by": ["engine default"]}, 1),
        ({"state": "held", "seconds": 1.0, "held_by": ["orders/3"]}, 1),
        ({"state": "probing"}, 1),
        ({"state": "stuck"}, 1),
        ({"state": "dead"}, 1),
        ({"state": "throttled"}, 0),
        ({"state": "consuming"}, 0),
    ],
)
def test_a_source_needs_a_person(given: dict[str, Any], count: int) -> None:
    found = document(source=given | {"detail": "why"})["problems"]
    assert len(found) == count
    for each in found:
        assert each["subject"] == "source orders"
        assert each["text"] == f"source orders is {given['state']}: why"
        assert_command(each["next"])


def test_a_problem_names_the_daemon_where_there_are_several() -> None:
    [found] = merge([document(), document("b/2", {"state": "stuck", "detail": "why"})])["problems"]
    assert found["text"] == "source orders is stuck in b/2: why"


def test_an_engine_that_is_away_for_long_needs_a_person() -> None:
    assert document(engine={"state": "away", "seconds": 59.0})["problems"] == []
    [found] = document(engine={"state": "away", "seconds": 300.0, "detail": "refused"})["problems"]
    assert found["text"] == "engine default is away for 5m: refused"
    assert_command(found["next"])


def test_a_source_that_its_engine_holds_names_the_engine_only() -> None:
    """The outage of the engine is said once, in its own line."""
    held = {"state": "held", "seconds": 61.0, "detail": "list the pauses: refused; engine default: refused"}
    away = {"state": "away", "seconds": 300.0, "detail": "refused"}
    for causes in (["engine default"], ["engine default", "pauses"], ["pauses"]):
        source, engine = document(source=held | {"held_by": causes}, engine=away)["problems"]
        assert source["text"] == "source orders is held by engine default"
        assert engine["text"] == "engine default is away for 5m: refused"
    for causes in (["engine default", "broker"], ["engine other"], ["orders/3"], []):
        source, _ = document(source=held | {"held_by": causes}, engine=away)["problems"]
        assert source["text"] == f"source orders is held: {held['detail']}"


@pytest.mark.parametrize(
    ("manual", "text"),
    [
        ({"manual": 1, "manual_seconds": 2.0}, "1 key is quarantined until a person decides, for 2s"),
        ({"manual": 3, "manual_seconds": 61.0}, "3 keys are quarantined until a person decides, the oldest for 1m"),
        ({"manual": 1, "manual_seconds": None}, "1 key is quarantined until a person decides"),
        ({}, "2 keys are quarantined until a person decides, the oldest for 2h"),
    ],
)
def test_keys_that_only_a_person_releases_are_reported_at_once(manual: dict[str, Any], text: str) -> None:
    keys = {"source": "orders", "keys": 5, "messages": 9, "oldest_seconds": 7200.0, "overdue": 0 if manual else 2}
    [found] = document(engine={"quarantined": [keys | manual]})["problems"]
    assert found["text"] == f"{text} (source orders, engine default)"
    assert found["next"] == "bridge quarantine list --source orders --engine default"
    assert_command(found["next"])


@pytest.mark.parametrize(
    ("failed", "today", "text"),
    [
        ({"a": 3}, {"a": 2}, "2 instances of a failed today"),
        ({"a": 1}, {"a": 2}, "1 instance of a failed today"),
        ({"a": 3}, {}, None),
        ({}, {"a": 2}, None),
    ],
)
def test_failures_of_today_that_nobody_has_handled(
    failed: dict[str, int], today: dict[str, int], text: str | None
) -> None:
    counts = ENGINE["counts"] | {"failed": failed, "failed_today": today}
    found = document(engine={"counts": counts})["problems"]
    assert [each["text"] for each in found] == ([] if text is None else [f"{text} (engine default)"])
    for each in found:
        assert_command(each["next"])


@pytest.mark.parametrize(("today", "exist", "count"), [(2, 3, 2), (1, 1, 1), (2, 0, 0), (0, 2, 0)])
def test_sagas_that_could_not_be_compensated_today(today: int, exist: int, count: int) -> None:
    def rows(number: int) -> list[dict[str, Any]]:
        bad = {"saga": "trip", "outcome": "compensation_failed", "count": number}
        return [{"saga": "trip", "outcome": "compensated", "count": 9}, *([bad] if number else [])]

    counts = ENGINE["counts"] | {"sagas": rows(exist), "sagas_today": rows(today)}
    found = document(engine={"counts": counts})["problems"]
    what = "1 saga" if count == 1 else f"{count} sagas"
    expected = [f"{what} of trip could not be compensated today (engine default)"] if count else []
    assert [each["text"] for each in found] == expected
    for each in found:
        assert each["next"] == "bridge instances list --outcome compensation_failed --engine default"
        assert_command(each["next"])


@pytest.mark.parametrize("outcomes", [["compensation_failed"], ["compensation_failed", "failed"]])
def test_the_next_command_of_failed_sagas_selects_them(outcomes: list[str]) -> None:
    options = " ".join(f"--outcome {each}" for each in outcomes)
    detail = f"1 trip {outcomes[-1]}; `bridge instances list {options}` shows them"
    part = {"kind": "sagas", "name": "default", "state": "failed", "seconds": 1.0, "detail": detail}
    [found] = document(components=(part,))["problems"]
    assert found["text"] == f"sagas on engine default have failed: {detail}"
    assert found["next"] == f"bridge instances list {options} --engine default"
    assert_command(found["next"])


def test_every_unready_state_has_a_next_command() -> None:
    others = {"dead letter", "delivery", "message", "partition", "daemon", "source", "engine", "job"}
    for kind in STATES.keys() - others:
        for state in STATES[kind]:
            if state in READY:
                continue
            part = {"kind": kind, "name": "default", "state": str(state), "seconds": 1.0, "detail": "why"}
            assert (kind, state) in _NEXT or kind == "sagas"
            [found] = document(components=(part,))["problems"]
            assert found["text"] == f"{_SENTENCES[kind, state].format(name='default')}: why"
            assert_command(found["next"])


def test_a_part_of_a_later_version_is_no_error() -> None:
    part = {"kind": "moon", "name": "default", "state": "dark", "seconds": 1.0, "detail": ""}
    [found] = document(components=(part,))["problems"]
    assert found["text"] == "moon default is dark"


def assert_command(text: str) -> None:
    """Check that a command line of the bridge parses."""
    words = text.split()
    assert words.pop(0) == "bridge"
    command: click.Command = root
    context = click.Context(root)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, text
        command = found
    command.make_context(command.name, words)


def test_rates_are_those_of_the_last_minute() -> None:
    rates = Rates()
    assert rates.per_second(0.0, 0, 0) == (0.0, 0.0)
    for second in range(0, 301, 5):
        rates.sample(float(second), second * 10, 7)
    assert rates.per_second(300.0, 3000, 7) == (10.0, 0.0)
    for second in range(305, 366, 5):
        rates.sample(float(second), 3000, 7)
    assert rates.per_second(365.0, 3000, 7) == (0.0, 0.0)


def test_ages() -> None:
    assert [age(each) for each in (0, 0.9, 59.9, 60, 3599, 3600, 86_399, 86_400, 1_000_000)] == [
        "0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "11d",
    ]  # fmt: skip


def test_nothing_known_is_no_problem() -> None:
    assert problems(document(engine={"counts": None, "early": None, "quarantined": None})) == []


def test_daemons_with_different_configurations_are_a_problem() -> None:
    """Also daemons of other machines, which only the engine knows. What a daemon says of itself is newer."""
    first, second = document("a/1"), document("b/2")
    second["daemons"][0]["config"] = {"version": "w"}
    lines = [each for each in merge([first, second])["problems"] if each["subject"] == "daemons"]
    assert [each["next"] for each in lines] == ["bridge reload --all"]
    assert "2 versions of the configuration (v: a/1; w: b/2)" in lines[0]["text"]
    alone = document("a/1")
    alone["daemons"][0]["peers"] = [{"id": "c/3", "config": "w", "at": "x"}, {"id": "a/1", "config": "old", "at": "x"}]
    assert "(v: a/1; w: c/3)" in merge([alone])["problems"][0]["text"]
    assert not merge([document("a/1"), document("b/2")])["problems"]


def test_a_refused_reload_is_a_problem() -> None:
    refused = document("a/1")
    refused["daemons"][0]["config"] = {"version": "v", "reload_refused": "bridge.yaml:1:1 R001 wrong"}
    [line] = merge([refused])["problems"]
    assert line["next"] == "bridge reload --dry-run"
    assert line["text"] == "daemon a/1 refuses its changed configuration: bridge.yaml:1:1 R001 wrong"
