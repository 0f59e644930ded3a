"""`on_missing`: a word, or a mapping with a duration or a start; and `quarantine`."""

from __future__ import annotations

import pytest

from bridge.config.model.routes import StartMissing, WaitMissing
from bridge.core.commands import OnMissing
from tests.config.conftest import Write, loaded, problems

CONFIG = """\
engine: {{type: embedded}}
brokers: {{local: {{type: local}}}}
sources:
  orders: {{broker: local, topics: [orders], no_match: ignore{source}}}
routes:
  - name: paid
    from: orders
    {command}: {{instance_id: "order-{{{{ payload.id }}}}"{name}, on_missing: {missing}}}
"""


def written(missing: str, command: str = "raise_event", source: str = "") -> str:
    return CONFIG.format(
        missing=missing, command=command, source=source, name=", name: p" if command == "raise_event" else ""
    )


@pytest.mark.parametrize("command", ["raise_event", "cancel", "terminate", "suspend", "resume"])
def test_every_command_that_needs_an_instance_takes_each_form(write: Write, command: str) -> None:
    for text, value in (
        ("ignore", OnMissing.IGNORE),
        ("{wait: 1h30m}", WaitMissing(wait="1h30m")),
        ("{start: order}", StartMissing(start="order", input="payload")),
        ("{start: order, input: 'payload.id'}", StartMissing(start="order", input="payload.id")),
    ):
        (route,) = loaded(write(written(text, command))).config.routes
        assert getattr(route, command).on_missing == value


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("retri", "routes[0].raise_event.on_missing", "did you mean `retry`?"),
        ("{wait: 5}", "routes[0].raise_event.on_missing.wait", "is not a duration"),
        ("{wait: 0s}", "routes[0].raise_event.on_missing.wait", "must be more than 0s, found 0s"),
        ("{prak: 1h}", "routes[0].raise_event.on_missing.prak", "unknown key `prak`"),
        ("{start: ''}", "routes[0].raise_event.on_missing.start", "must not be empty"),
        ("{start: order, wait: 1h}", "routes[0].raise_event.on_missing.wait", "`wait` cannot be combined with `start`"),
        (
            "{wait: 1h, input: payload}",
            "routes[0].raise_event.on_missing.input",
            "`input` cannot be combined with `wait`",
        ),
        ("{wait: }", "routes[0].raise_event.on_missing.wait", "the duration is missing; write a number with a unit"),
        ("wait", "routes[0].raise_event.on_missing", "ignore; found `wait`; or `{wait: 1h}` to let the message wait"),
        ("{}", "routes[0].raise_event.on_missing.wait", "the key `wait` is missing"),
    ],
)
def test_what_is_wrong_is_told_where_it_is_written(write: Write, text: str, path: str, what: str) -> None:
    found = problems(write(written(text)))
    assert any(each.path == path and what in each.what and each.line == 8 for each in found), found


def test_a_quarantine_needs_keys_and_an_engine(write: Write) -> None:
    assert loaded(write(written("retry", source=", quarantine: {}"))).config.sources["orders"].quarantine is not None
    found = problems(write(written("retry", source=", ordering: none, quarantine: {engine: eu}")))
    assert {each.path for each in found} == {"sources.orders.quarantine", "sources.orders.quarantine.engine"}


def test_a_key_that_is_held_in_one_source_cannot_be_in_order_with_others(write: Write) -> None:
    bills = "  bills: {broker: local, topics: [bills], no_match: ignore, ordering_domain: shop}\n"
    text = written("retry", source=", ordering_domain: shop, quarantine: {}").replace("routes:", f"{bills}routes:")
    (found,) = problems(write(text.replace("from: orders", "from: [orders, bills]")))
    assert (found.path, found.line, found.severity) == ("sources.orders.quarantine", 4, "error")
    assert "`ordering_domain`" in found.what


def test_a_renamed_key_is_an_error_that_names_the_new_one(write: Write) -> None:
    (found,) = problems(write(written("{park: 1h}")))
    assert (found.path, found.line, found.what) == ("routes[0].raise_event.on_missing.park", 8, "`park` is now `wait`")
    assert written("{park: 1h}").splitlines()[7][found.column - 1 :].startswith("park: 1h")


@pytest.mark.parametrize("engine", ["embedded", "scheduler"])
def test_a_renamed_key_is_found_in_engines_overlays_defaults_and_further_files(write: Write, engine: str) -> None:
    base = write(written("retry").replace("type: embedded", f"type: {engine}"))
    old = "`parking` is now `early_messages`"
    text = written("retry").replace("type: embedded", f"type: {engine}, parking: {{poll: 1s}}")
    assert [(each.line, each.what) for each in problems(write(text, "whole.yaml"))] == [(1, old)]
    top = write("engine:\n  parking: {poll: 1s}\n", "top.yaml")
    (found,) = problems(base, overlays=(top,))
    assert (found.file, found.line, found.column, found.what) == (str(top), 2, 3, old)
    more = write("defaults:\n  engine:\n    parking: {poll: 1s}\n", "more.yaml")
    found = next(each for each in problems(base, more) if each.path.startswith("defaults"))
    assert (found.file, found.line, found.column, found.what) == (str(more), 3, 5, old)
    route = write("routes:\n- name: paid\n  raise_event:\n    on_missing:\n      park: 1h\n", "route.yaml")
    (found,) = problems(base, overlays=(route,))
    assert (found.file, found.line, found.what) == (str(route), 5, "`park` is now `wait`")


def test_a_renamed_key_beside_its_successor_is_told_too(write: Write) -> None:
    (found,) = problems(write(written("{park: 1h, wait: 2h}")))
    assert found.what == "`park` is now `wait`"
