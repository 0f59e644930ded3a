"""`on_missing`: a word, or a mapping with a duration or a start; and `quarantine`."""

from __future__ import annotations

import pytest

from bridge.config.model.on_missing import ParkMissing, StartMissing
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
    {verb}: {{instance_id: "order-{{{{ payload.id }}}}"{name}, on_missing: {missing}}}
"""


def written(missing: str, verb: str = "raise_event", source: str = "") -> str:
    return CONFIG.format(missing=missing, verb=verb, source=source, name=", name: p" if verb == "raise_event" else "")


@pytest.mark.parametrize("verb", ["raise_event", "cancel", "terminate", "suspend", "resume"])
def test_every_verb_that_needs_an_instance_takes_each_form(write: Write, verb: str) -> None:
    for text, value in (
        ("ignore", OnMissing.IGNORE),
        ("{park: 1h30m}", ParkMissing(park="1h30m")),
        ("{start: order}", StartMissing(start="order", input="payload")),
        ("{start: order, input: 'payload.id'}", StartMissing(start="order", input="payload.id")),
    ):
        (route,) = loaded(write(written(text, verb))).config.routes
        assert getattr(route, verb).on_missing == value


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("retri", "routes[0].raise_event.on_missing", "did you mean `retry`?"),
        ("{park: 5}", "routes[0].raise_event.on_missing.park", "is not a duration"),
        ("{park: 0s}", "routes[0].raise_event.on_missing.park", "must be more than 0s, found 0s"),
        ("{prak: 1h}", "routes[0].raise_event.on_missing.prak", "unknown key `prak`"),
        ("{start: ''}", "routes[0].raise_event.on_missing.start", "must not be empty"),
        ("{start: order, park: 1h}", "routes[0].raise_event.on_missing.park", "`park` does not go with `start`"),
        ("{park: 1h, input: payload}", "routes[0].raise_event.on_missing.input", "`input` does not go with `park`"),
        ("{park: }", "routes[0].raise_event.on_missing.park", "where a duration belongs; write a number with a unit"),
        ("park", "routes[0].raise_event.on_missing", "ignore; found `park`; or `{park: 1h}` to let the message wait"),
        ("{}", "routes[0].raise_event.on_missing.park", "the key `park` is missing"),
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
