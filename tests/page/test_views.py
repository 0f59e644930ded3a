"""Views of the pages, made of answers of operations. No browser, no daemon."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bridge.app.page import dead_letters, jobs, messages, overview, sparkline, waiting
from bridge.app.page.visit import Visit
from bridge.core.errors import InvalidCommand

_ANSWER = dict.fromkeys(
    ("message_id", "position", "at", "source", "route", "what", "instance_id", "entity", "key", "reason", "detail",
     "attempt", "until", "next_try", "topic", "duplicate_of", "config")
)  # fmt: skip


def visit(**query: str) -> Visit:
    return Visit(cast(Any, None), cast(Any, None), {}, "/", {}, query)


@pytest.mark.parametrize(
    ("given", "text", "following"),
    [
        ({"outcome": "executed", "what": "start"}, "The engine has accepted: start.", []),
        ({"outcome": "duplicate", "what": "event paid"}, "The engine had accepted it before: event paid.", []),
        ({"outcome": "early", "instance_id": "order-1"}, "It waits on the engine for the start of its instance.",
         ["/waiting?prefix=order-1"]),
        ({"outcome": "quarantined", "source": "orders", "key": "a b", "reason": "r", "detail": "d"},
         "It waits with its ordering key for a person. r: d", ["/waiting?source=orders&key=a+b"]),
        ({"outcome": "retrying", "source": "orders", "reason": "timeout"}, "timeout", ["/?source=orders"]),
        ({"outcome": "dead_lettered", "position": "c/orders/0@1", "message_id": "c/orders/0@1", "reason": "no_route"},
         "no_route", ["/dead-letters/orders%2F0%401"]),
        ({"outcome": "dead_lettered", "position": "c/orders/0@1", "message_id": "/shop 7"}, "",
         ["/dead-letters/%2Fshop%207"]),
        ({"outcome": "ignored", "detail": "no route matches"}, "no route matches", []),
        ({"outcome": "published", "detail": None}, "An instance published it.", []),
        ({"outcome": "not_kept", "detail": "gone"}, "gone", []),
    ],
)  # fmt: skip
def test_an_answer_in_words_with_its_next_page(given: dict[str, Any], text: str, following: list[str]) -> None:
    [found] = messages.answers({"answers": [_ANSWER | given]})
    assert (found.text, [link.path for link in found.next]) == (text, following)


def test_ids_are_shown_without_their_cluster() -> None:
    assert messages.short("local-1f/orders/0@12") == "orders/0@12"
    for id_ in ("orders/0@12", "/shop 7", "a/b/c", ""):
        assert messages.short(id_) == id_


def test_instances_with_their_children_and_events_in_time() -> None:
    def lineage(id_: str, *children: Any) -> dict[str, Any]:
        return {
            "instance_id": id_, "name": "order", "status": "RUNNING", "created_at": "2026-01-01T00:00:00Z",
            "children": children,
            "arrivals": [{"at": "2", "what": "start", "message_id": "c/orders/0@1", "route": "r", "position": None},
                         {"at": "1", "what": "event x", "message_id": None, "route": None, "position": None}],
            "publications": [{"at": "3", "id": "e-1", "type": "t", "target": "out", "state": "failed", "attempts": 2}],
        }  # fmt: skip

    found = list(messages.instances([lineage("a", lineage("b"))], "orders/0@1"))
    assert [(each.link.text, each.depth) for each in found] == [("a", 0), ("b", 1)]
    assert [(each.way, each.what, each.by, each.is_wanted) for each in found[0].events] == [
        ("in", "event x", "", False),
        ("in", "start", "route r", True),
        ("out", "t", "target out, failed, 2 attempts", False),
    ]  # fmt: skip


def test_a_picture_of_counts_shows_the_smallest() -> None:
    picture = sparkline.sparkline([0, 1, 1000], 'a <b> "c"')
    assert picture.count("<rect") == 3
    assert 'height="2"' in picture
    assert 'height="18"' in picture
    assert "a &lt;b&gt; &#34;c&#34;" in picture
    assert sparkline.sparkline([], "") == ""
    assert sparkline.sparkline([0, 0], "").count('height="1"') == 2


def test_waiting_messages_by_instance_and_by_key_the_longest_first() -> None:
    def message(since: str, instance_id: str | None, source: str, key: str | None) -> dict[str, Any]:
        return {"since": since, "instance_id": instance_id, "source": source, "key": key, "route": "r", "reason": "x"}

    found = [
        message("3", "i", "a", None), message("2", None, "a", "k"), message("1", None, "b", "k"),
        message("4", "i", "b", None), message("5", None, "a", None),
    ]  # fmt: skip
    groups = waiting.grouped(found)
    assert [(each.name, each.source, each.count, each.path) for each in groups] == [
        ("k", "b", 1, None), ("k", "a", 1, None), ("i", "a", 2, "/instances/i"), ("", "a", 1, None),
    ]  # fmt: skip
    assert waiting.chosen(found, visit(source="b", key="k")) == [found[2]]
    assert waiting.chosen(found, visit()) == found


def test_actions_have_the_filter_of_the_address() -> None:
    assert dead_letters.action_fields(visit(), None) == {}
    assert dead_letters.action_fields(visit(group="g", cause="c", source="s"), 0.0) == {
        "causes[]": "g", "sources[]": "s", "since": "1970-01-01T00:00:00+00:00",
    }  # fmt: skip
    assert dead_letters.action_fields(visit(cause="c", route="r"), None) == {"causes[]": "c", "routes[]": "r"}
    assert dead_letters.moment_of("1h", 7200.0) == 3600.0
    assert dead_letters.moment_of("nonsense", 7200.0) is None
    assert dead_letters.moment_of(None, 7200.0) is None


def test_jobs_on_dead_letters_of_a_group_are_found_by_their_selection() -> None:
    def job(id_: str, kind: str, selection: str) -> dict[str, Any]:
        return {"job": id_, "kind": kind, "selection": selection, "created": id_}

    found = [
        job("1", "replay", "cause g"),
        job("2", "early.drop", "cause g"),
        job("3", "drop", "cause h"),
        job("4", "restore", "cause g"),
    ]
    assert [each["job"] for each in dead_letters.jobs_of(found, "g")] == ["4", "1"]
    assert [each["job"] for each in dead_letters.jobs_of(found, None)] == ["4", "3", "1"]


def test_items_of_jobs_lead_to_their_pages() -> None:
    assert jobs.item_path("replay", "orders.dlq/0@1") == "/dead-letters/orders.dlq%2F0%401"
    assert jobs.item_path("instances.terminate", "a b") == "/instances/a%20b"
    assert jobs.item_path("early.release", "a") is None
    assert jobs.offset_of(visit(offset="20")) == 20
    for bad in ("-1", "x", "1e9", "9" * 10, "²"):
        with pytest.raises(InvalidCommand, match="offset"):
            jobs.offset_of(visit(offset=bad))


def test_an_engine_that_counts_no_instances_has_unknown_numbers() -> None:
    of_scheduler: dict[str, Any] = {"counts": None, "early": None, "quarantined": None, "state": "up", "daemons": []}
    shown = overview._engine(of_scheduler)
    assert {shown[name] for name in ("open", "ended", "failed", "undone")} == {None}, "0 would say that none runs"


@pytest.mark.parametrize(("count", "text"), [(1, "1 dead letter"), (2, "2 dead letters")])
def test_a_source_with_its_dead_letters(count: int, text: str) -> None:
    source = {
        "name": "orders", "state": "idle", "received_per_second": 0.0, "lag": None, "oldest_seconds": None,
        "dead_letters_open": {"count": count},
    }  # fmt: skip
    assert overview._of_source(source).text.split(" · ")[-1] == text
