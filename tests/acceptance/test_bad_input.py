"""Unusable messages end as dead letters with an understandable cause, and the daemon continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bridge.core import provenance
from bridge.core.message import Headers, Message
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [echo]
brokers: {local: {type: local, partitions: 1}}
defaults: {source: {broker: local, no_match: dead_letter, limits: {dead_letter_limit: 100000}}}
sources:
  orders: {topics: [orders], codec: json, attributes: {type: "headers['type']"}, retry: {in_memory: 100ms}}
  typed: {topics: [typed], codec: json, attributes: {type: payload.kind, time: payload.time}}
  sorted: {topics: [sorted], codec: json, ordering: "{{ payload.customer }}", identity: "{{ payload.number }}"}
  checked: {topics: [checked], codec: json, schema: order.json}
  events: {topics: [events]}
  texts: {topics: [texts], codec: text}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}"}
  - {name: bare, from: orders, match: {type: bare}, schedule: {orchestration: echo, instance_id: "{{ payload.id }}"}}
  - name: condition
    from: orders
    match: {type: condition}
    when: payload.total / payload.count > 1
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}"}
  - name: each
    from: orders
    match: {type: each}
    for_each: payload.lines
    schedule: {orchestration: echo, instance_id: "line-{{ item.id }}"}
  - name: input
    from: orders
    match: {type: input}
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}", input: "{'a': payload.a + 1}"}
  - name: later
    from: orders
    match: {type: later}
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}", delay: "{{ payload.delay }}"}
  - name: mapped
    from: orders
    match: {type: mapped}
    map: echo:broken_map
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}"}
  - name: raise
    from: orders
    match: {type: raise}
    raise_event: {instance_id: "order-{{ payload.id }}", name: "{{ payload.name }}"}
  - name: signal
    from: orders
    match: {type: signal}
    signal_entity: {entity: account, key: "{{ payload.id }}", operation: add}
  - {name: typed, from: typed, schedule: {orchestration: echo, instance_id: "typed-{{ payload.id }}"}}
  - {name: sorted, from: sorted, schedule: {orchestration: echo, instance_id: "sorted-{{ payload.number }}"}}
  - {name: checked, from: checked, schedule: {orchestration: echo, instance_id: "checked-{{ payload.id }}"}}
  - {name: event, from: events, schedule: {orchestration: echo, instance_id: "event-{{ event.id }}"}}
  - {name: text, from: texts, schedule: {orchestration: echo, instance_id: "text-{{ payload }}"}}
ops: {http: {port: 0}}
"""

ECHO = """
from durabletask import task
from durabletask.entities import DurableEntity


def echo(ctx: task.OrchestrationContext, order: object):
    return order


class Account(DurableEntity):
    def add(self, amount: object) -> None:
        self.set_state(amount)


def broken_map(event):
    raise RuntimeError(f"cannot map {event.data}")
"""

SCHEMA = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "pattern": "^[a-z]+$"}}}

SECRET = "5ecr3t"
"""Text in every payload; no cause may contain it."""


@dataclass(frozen=True)
class Bad:
    """Message to `topic`, the reason of its dead letter, and a word of the explanation."""

    name: str
    body: bytes | None
    reason: str
    says: str
    topic: str = "orders"
    headers: Headers = (("type", b"start"),)
    key: bytes | None = b"k"


def of(kind: str, /, **payload: Any) -> dict[str, Any]:
    return {"body": json.dumps({"note": SECRET, **payload}).encode(), "headers": (("type", kind.encode()),)}


def event(**changes: Any) -> bytes:
    whole = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "start", "data": SECRET}
    return json.dumps({name: value for name, value in (whole | changes).items() if value is not ...}).encode()


STRUCTURED: Headers = (("content-type", b"application/cloudevents+json"),)
BATCH: Headers = (("content-type", b"application/cloudevents-batch+json"),)
CHARSET = ("content-type", b"text/plain; charset=zlib")
BINARY: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"start"))

DECODE, EXPRESSION, COMMAND = "decode_error", "expression_error", "invalid_command"

BAD = [
    # -- bodies
    Bad("malformed", b'{"id": "5ecr3t', DECODE, "not valid JSON"),
    Bad("text", b"5ecr3t order please", DECODE, "not valid JSON"),
    Bad("empty", b"", DECODE, "empty"),
    Bad("bytes zero", bytes(1000), DECODE, "not valid JSON"),
    Bad("trailing", b'{"id": "a"} 5ecr3t', DECODE, "not valid JSON"),
    Bad("nan", b'{"id": NaN, "note": "5ecr3t"}', DECODE, "not valid JSON"),
    Bad("infinity", b'{"id": 1e999, "note": "5ecr3t"}', DECODE, "not valid JSON"),
    Bad("invalid UTF-8", b'{"id": "5ecr3t\xff"}', DECODE, "not valid JSON"),
    Bad("UTF-16", '{"id": "5ecr3t"}'.encode("utf-16"), DECODE, "not valid JSON"),
    Bad("two byte order marks", b'\xef\xbb\xbf\xef\xbb\xbf{"id": "5ecr3t"}', DECODE, "not valid JSON"),
    Bad("lone surrogate", b'{"id": "5ecr3t \\ud800"}', DECODE, "not valid JSON"),
    Bad("lone surrogate in a key", b'{"id": "a", "\\udc00": "5ecr3t"}', DECODE, "not valid JSON"),
    Bad("10 MB", b'{"id": "' + b"5ecr3t" * 1_700_000 + b'"}', "payload_too_large", "limits.max_payload"),
    Bad("10,000 deep", b"[" * 10_000 + b"]" * 10_000, "payload_too_deep", "limits.max_depth"),
    Bad("10,000 deep objects", b'{"5ecr3t":' * 10_000 + b"1" + b"}" * 10_000, "payload_too_deep", "limits.max_depth"),
    Bad("200,000 deep and cut off", b"[" * 200_000, "payload_too_deep", "limits.max_depth"),
    Bad("a number of 5,000 digits", b'{"id": ' + b"9" * 5000 + b"}", DECODE, "not valid JSON"),
    Bad("invalid UTF-8 text", b"5ecr3t \xff", DECODE, "UTF-8", "texts", ()),
    # -- results of rules
    Bad("tombstone", None, EXPRESSION, "payload"),
    Bad("null", b"null", EXPRESSION, "not a map"),
    Bad("a list", b'["5ecr3t"]', EXPRESSION, "not a map"),
    Bad("deep arrays in a string", json.dumps("[" * 10_000).encode(), EXPRESSION, "not a map"),
    Bad("no id", **of("start"), reason=EXPRESSION, says='there is no key "id"'),
    Bad("id null", **of("start", id=None), reason=EXPRESSION, says="cannot hold null"),
    Bad("id a map", **of("start", id={"a": SECRET}), reason=EXPRESSION, says="cannot hold a map"),
    Bad("condition fails", **of("condition", id="a", total=4, count=0), reason=EXPRESSION, says="division by zero"),
    Bad("condition on text", **of("condition", id="a", total="x", count=0), reason=EXPRESSION, says="route"),
    Bad("condition on 2^70", **of("condition", id="a", total=2**70, count=1), reason=EXPRESSION, says="64 bits"),
    Bad("input overflows", **of("input", id="a", a=2**63 - 1), reason=EXPRESSION, says="exceeds 64 bits"),
    Bad("for_each of a map", **of("each", lines={"a": SECRET}), reason=EXPRESSION, says="list"),
    Bad("for_each item without id", **of("each", lines=[{"id": 1}, {}]), reason=EXPRESSION, says='no key "id"'),
    Bad("delay", **of("later", id="a", delay=SECRET), reason=COMMAND, says="not a duration"),
    Bad("a map function that raises", **of("mapped", id="a"), reason=EXPRESSION, says="echo:broken_map"),
    Bad("no rule", **of("unheard-of"), reason="no_route", says="none of the"),
    Bad("no type", b'{"id": "5ecr3t"}', EXPRESSION, "type", headers=()),
    # -- ids and names
    Bad("id empty", **of("bare", id=""), reason=COMMAND, says="empty"),
    Bad("id of an entity", **of("bare", id="@account@a"), reason=COMMAND, says="begins with '@'"),
    Bad("id of ours", **of("bare", id="bridge:store"), reason=COMMAND, says="begins with 'bridge:'"),
    Bad("id with a slash", **of("bare", id="a/b"), reason=COMMAND, says="the character /"),
    Bad("id with a line break", **of("bare", id="a\nb"), reason=COMMAND, says="U+000A"),
    Bad("id with NUL", **of("bare", id="a\0b"), reason=COMMAND, says="U+0000"),
    Bad("id of 10,000", **of("bare", id="x" * 10_000), reason=COMMAND, says="10000 characters"),
    Bad("id of 257", **of("start", id="é" * 251), reason=COMMAND, says="257 characters"),
    Bad("event name empty", **of("raise", id="a", name=""), reason=COMMAND, says="event name is empty"),
    Bad("event name of 10,000", **of("raise", id="a", name="x" * 10_000), reason=COMMAND, says="event name"),
    Bad("entity key empty", **of("signal", id=""), reason=COMMAND, says="entity key is empty"),
    Bad("entity key with a slash", **of("signal", id="a/b"), reason=COMMAND, says="entity key"),
    Bad("nobody there", **of("raise", id="nobody", name="paid"), reason="instance_not_found", says="no such instance"),
    # -- headers
    Bad("type not UTF-8", b'{"id": "5ecr3t"}', "no_route", "none of the", headers=(("type", b"st\xffrt"),)),
    Bad("huge header", b"[5ecr3t", DECODE, "not valid JSON", headers=(("h" * 1000, b"\xff" * 500_000),)),
    Bad("many headers", b"[5ecr3t", DECODE, "not valid JSON", headers=(("h", b"v"),) * 5_000),
    Bad(
        "spoofed cause", b"[5ecr3t", DECODE, "not valid JSON",
        headers=(("bridge.reason", b"none"), ("bridge.message-id", b"o"), ("bridge.topic", b"other"), ("x", b"y")),
    ),
    # -- attributes
    Bad("attribute missing", b'{"id": "5ecr3t"}', EXPRESSION, "kind", "typed"),
    Bad("attribute null", **of("", kind=None, time=None), topic="typed", reason=EXPRESSION, says="type is empty"),
    Bad("attribute a list", **of("", kind=[SECRET], time=None), topic="typed", reason=EXPRESSION, says="not text"),
    Bad("attribute no time", **of("", kind="start", time=SECRET), topic="typed", reason=EXPRESSION, says="RFC 3339"),
    Bad("no ordering key", **of("", number=1), topic="sorted", reason=EXPRESSION, says='no key "customer"'),
    Bad("no identity", **of("", customer="c"), topic="sorted", reason=EXPRESSION, says='no key "number"'),
    Bad("against the schema", **of("", id="5ECR3T"), topic="checked", reason="schema_error", says="id"),
    # -- CloudEvents
    Bad("no CloudEvent", b'{"a": "5ecr3t"}', DECODE, "specversion", "events", STRUCTURED),
    Bad("version 0.3", event(specversion="0.3"), DECODE, "specversion", "events", STRUCTURED),
    Bad("id a number", event(id=1), DECODE, "id", "events", STRUCTURED),
    Bad("id missing", event(id=...), DECODE, "id", "events", STRUCTURED),
    Bad("source empty", event(source=""), DECODE, "source", "events", STRUCTURED),
    Bad("type null", event(type=None), DECODE, "type", "events", STRUCTURED),
    Bad("subject a list", event(subject=[SECRET]), DECODE, "subject", "events", STRUCTURED),
    Bad("time no time", event(time=SECRET), DECODE, "time", "events", STRUCTURED),
    Bad("both kinds of data", event(data_base64="eA=="), DECODE, "data_base64", "events", STRUCTURED),
    Bad("base64 broken", event(data=..., data_base64="5ecr3t!"), DECODE, "base64", "events", STRUCTURED),
    Bad("extension a map", event(more={"a": SECRET}), DECODE, "extension", "events", STRUCTURED),
    Bad("extension badly named", event(**{"Mo re": SECRET}), DECODE, "a-z", "events", STRUCTURED),
    Bad("a batch", b"[]", DECODE, "batch", "events", BATCH),
    Bad("ce_ without id", b'"5ecr3t"', DECODE, "id", "events", (BINARY[0], *BINARY[2:])),
    Bad("ce_ not UTF-8", b'"5ecr3t"', DECODE, "UTF-8", "events", (*BINARY, ("ce_more", b"\xff"))),
    Bad("ce_ badly named", b'"5ecr3t"', DECODE, "a-z", "events", (*BINARY, ("ce_Mo re", b"x"))),
    Bad("ce_ garbage", b'"5ecr3t"', DECODE, "", "events", (("ce_", b"\x00"), ("ce_id", b""), ("ce_type", b""))),
    Bad("charset unknown", b'"5ecr3t"', DECODE, "charset", "events", (*BINARY, CHARSET)),
]  # fmt: skip


class Project:
    """Project with one daemon for all tests of this module."""

    def __init__(self, directory: Path, daemon: DaemonProcess, log: Log) -> None:
        self.directory = directory
        self.daemon = daemon
        self.log = log
        self._numbers = count()

    def goes_on(self) -> None:
        """Assert that a later message with the same key is executed."""
        before = self.executed()
        body = json.dumps({"id": f"good-{next(self._numbers)}"}).encode()
        self.log.publish("orders", Message(body, b"k", (("type", b"start"),)))
        self.daemon.wait(lambda: self.executed() == before + 1, "the good message is executed")

    def executed(self) -> int:
        found = self.daemon.metrics("bridge_outcomes_total")
        return int(sum(value for labels, value in found.items() if 'outcome="executed"' in labels))

    def instance(self, instance_id: str) -> Any:
        return json.loads(bridge("instances", "wait", instance_id, "--json", cwd=self.directory))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    directory = tmp_path_factory.mktemp("bad")
    (directory / "bridge.yaml").write_text(CONFIG)
    (directory / "echo.py").write_text(ECHO)
    (directory / "order.json").write_text(json.dumps(SCHEMA))
    with DaemonProcess(directory) as daemon, Log(directory / ".bridge" / "broker") as log:
        yield Project(directory, daemon, log)
        assert daemon.get("/readyz")[0] == 200
        assert sum(daemon.metrics("bridge_in_flight").values()) == 0


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_it_is_dead_lettered_and_the_daemon_goes_on(project: Project, bad: Bad) -> None:
    message = Message(bad.body, bad.key, bad.headers)
    project.log.publish(bad.topic, message)
    [dead_letter] = project.log.read(f"{bad.topic}.dlq", 1)
    received = {name: value.decode() for name, value in dead_letter.headers if name.startswith("bridge.")}
    assert received[provenance.REASON] == bad.reason, received
    detail = received[provenance.DETAIL]
    assert bad.says in detail
    assert " " in detail
    assert len(detail.encode()) <= 1024
    assert SECRET not in detail
    assert SECRET not in project.daemon.log.read_text()
    assert received[provenance.TOPIC] == bad.topic
    assert received[provenance.SOURCE] == bad.topic
    assert received.get(provenance.EXECUTED) is None, "nobody believes what a stranger says of the past"
    assert dead_letter.body == message.body
    assert dead_letter.key == message.key
    own = tuple(header for header in message.headers if not header[0].startswith("bridge."))
    assert dead_letter.headers[: len(own)] == own
    assert all(name.startswith("bridge.") for name, _ in dead_letter.headers[len(own) :])
    project.goes_on()


@pytest.mark.parametrize(
    ("instance", "value"),
    [
        ("order-exact", {"id": "exact", "big": 2**70, "least": -(2**63), "most": 2**64 - 1, "huge": 10**300}),
        ("order-text", {"id": "text", "pair": "\U0001f600", "line": "\u2028", "nul": "a\0b"}),
        ("order-1180591620717411303424", {"id": 2**70}),
        ("order-deep", {"id": "deep", "list": json.loads("[" * 98 + "]" * 98)}),
    ],
)
def test_what_is_odd_but_legal_arrives_exactly(project: Project, instance: str, value: Any) -> None:
    project.log.publish("orders", Message(json.dumps(value).encode(), b"k", (("type", b"start"),)))
    shown = project.instance(instance)
    assert shown["output"] == value


def test_the_same_again_by_another_name_is_no_other_message(project: Project) -> None:
    """A spoofed identity or list of executed routes has no effect on a good message either."""
    headers = (("type", b"start"), ("bridge.executed", b"start"), ("bridge.message-id", b"other"))
    before = project.executed()
    project.log.publish("orders", Message(b'{"id": "spoof"}', b"k", headers))
    project.daemon.wait(lambda: project.executed() == before + 1, "executed")
    assert project.instance("order-spoof")["output"] == {"id": "spoof"}
