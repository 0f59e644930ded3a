"""Loading as a whole: problems and their places, paths, version, warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.config.source import Loaded, load
from bridge.config.yaml.document import parse
from bridge.core.errors import ConfigError, Problem
from tests.config.conftest import MINIMAL, Write, loaded, problems
from tests.kit.examples import examples

DESIGN = """\
engine: {type: embedded, path: .bridge/engine.db, retention: 7d}
workflows: [workflows]
vars: {currency: EUR}
brokers:
  kafka: {type: local, path: "${KAFKA_LOG:-.bridge/kafka}"}
  bus:   {type: local, path: "${BUS_LOG}"}
targets:
  order-results: {broker: kafka, topic: order-results}
defaults: {source: {codec: cloudevents, no_match: dead_letter}}
sources:
  orders:
    {broker: kafka, topics: [orders], group: bridge, ordering: key, dead_letter: orders.dlq, schema: schemas/order.json}
  payments: {broker: bus, topics: [payments], codec: json, attributes: {type: "headers['eventType']"}}
routes:
  - name: start-order
    from: orders
    match: {type: order.created}
    when: payload.total > 0.0
    schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}", input: payload, on_existing: ignore}
  - name: payment-captured
    from: payments
    match: {type: payment.captured}
    raise_event: {instance_id: "order-{{ payload.order_id }}", name: payment_captured, data: payload, on_missing: retry}
  - name: order-cancelled
    from: orders
    match: {type: order.cancelled}
    cancel: {instance_id: "order-{{ payload.id }}"}
"""

WRONG = """\
engin: {type: embedded}
engines: {default: {type: embeded}, b: {type: embedded, retension: 7d, worker: {threads: true}}, c: {path: x}}
brokers:
  kafka: {type: rabbit, bootstrap: x}
  bus: {type: local, partitions: many, retention: 30, colour: red}
  "my name": {type: local}
sources:
  orders:
    broker: kafk
    topics: [or ders, 3]
    ordering: foo
    limits: {max_payload: 1XB, concurrency: 0}
    attributes: {Type: x}
    no_match: x
  p: {broker: bus, topics: [], codec: jsn}
  list: []
ops: {http: {port: 99999}, log: loud, drain: 1e3}
routes:
  - name: a
    from: ordes
    match: {tpye: x, header.x: 1, tenant: 3, subject: {a: 1}, topic: []}
    map: foo
    ignor: {}
  - name: a
    from: [orders, p, nowhere]
    engine: zz
    schedule: {instance_id: 3, on_existing: restrt, tags: 1}
    ignore: {}
  - 3
  - {name: b, from: [], signal_entity: {entity: "", key: k, operation: o, at: x, delay: 1s}}
workflows: {modules: ["not a module"]}
"""

EXPECTED = [
    (1, 1, "engin", "did you mean `engine`?"),
    (2, 11, "engines.default", "unknown type `embeded`; known types: embedded, scheduler"),
    (2, 57, "engines.b.retension", "did you mean `retention`?"),
    (2, 90, "engines.b.worker.threads", "expected a number, found a boolean"),
    (2, 98, "engines.c", "the key `type` is missing"),
    (4, 3, "brokers.kafka", "unknown type `rabbit`; known types: local, kafka"),
    (5, 34, "brokers.bus.partitions", "expected a whole number, found text: many"),
    (5, 51, "brokers.bus.retention", "30 is not a duration"),
    (5, 55, "brokers.bus.colour", "unknown key `colour`; known: type, path"),
    (6, 3, "brokers.my name", "a name must begin with"),
    (9, 13, "sources.orders.broker", "did you mean `kafka`?"),
    (10, 14, "sources.orders.topics[0]", "1 to 249 of the characters"),
    (10, 23, "sources.orders.topics[1]", "expected text, found a number: 3; put it in quotes"),
    (11, 15, "sources.orders.ordering", "key, partition, none, or a template"),
    (12, 27, "sources.orders.limits.max_payload", "is not a size"),
    (12, 45, "sources.orders.limits.concurrency", "must be at least 1, found a number: 0"),
    (13, 18, "sources.orders.attributes.Type", "lower-case"),
    (14, 15, "sources.orders.no_match", "must be one of dead_letter, ignore; found `x`"),
    (15, 3, "sources.p.no_match", "the key `no_match` is missing"),
    (15, 20, "sources.p.topics", "at least one entry"),
    (15, 39, "sources.p.codec", "did you mean `json`?"),
    (16, 3, "sources.list", "expected a mapping, found a list"),
    (16, 3, "sources.list", "no route reads"),
    (17, 20, "ops.http.port", "must be at most 65535"),
    (17, 33, "ops.log", "expected a mapping, found text: loud"),
    (17, 46, "ops.drain", "not a duration"),
    (19, 5, "routes[0]", "exactly one of"),
    (20, 11, "routes[0].from", "did you mean `orders`?"),
    (21, 13, "routes[0].match.tpye", "did you mean `type`?"),
    (21, 22, 'routes[0].match."header.x"', "write `headers.NAME`"),
    (21, 35, "routes[0].match.tenant", "did you mean `extensions.tenant`"),
    (21, 46, "routes[0].match.subject", "use `when` for other conditions"),
    (21, 63, "routes[0].match.topic", "an empty list"),
    (22, 10, "routes[0].map", "`module:function`"),
    (23, 5, "routes[0].ignor", "did you mean `ignore`?"),
    (24, 5, "routes[1]", "has schedule and ignore"),
    (24, 11, "routes[1].name", "taken by the route at"),
    (25, 23, "routes[1].from[2]", "there is no source `nowhere`"),
    (26, 13, "routes[1].engine", "there is no engine `zz`"),
    (27, 5, "routes[1].schedule", "write either `orchestration` or `saga`"),
    (27, 29, "routes[1].schedule.instance_id", "put it in quotes"),
    (27, 45, "routes[1].schedule.on_existing", "did you mean `restart`?"),
    (27, 59, "routes[1].schedule.tags", "expected a mapping, found a number: 1"),
    (29, 5, "routes[2]", "expected a mapping, found a number: 3"),
    (30, 15, "routes[3].from", "at least one entry"),
    (30, 49, "routes[3].signal_entity.entity", "must not be empty"),
    (31, 23, "workflows.modules[0]", "Python module"),
]


def test_every_problem_is_told_at_once_where_it_is_written(write: Write) -> None:
    found = problems(write(WRONG))
    received = [(problem.line, problem.column, problem.path) for problem in found]
    assert sorted(received) == sorted(expected[:3] for expected in EXPECTED)
    for line, column, path, what in EXPECTED:
        at = [problem.what for problem in found if (problem.line, problem.column, problem.path) == (line, column, path)]
        assert any(what in text for text in at), (path, at)


def test_the_sample_of_the_documentation_loads(write: Write, tmp_path: Path) -> None:
    write("{}", "schemas/order.json")
    found = loaded(write(DESIGN), BUS_LOG="/var/bus")
    assert found.warnings == ()
    assert found.config.brokers["bus"].path == "/var/bus"  # type: ignore[union-attr]  # the test knows which one it is
    assert found.config.brokers["kafka"].path == ".bridge/kafka"  # type: ignore[union-attr]  # the test knows which one it is
    assert [route.command for route in found.config.routes] == ["schedule", "raise_event", "cancel"]
    assert found.resolve(("sources", "orders", "schema_file"), "schemas/order.json") == tmp_path / "schemas/order.json"


@pytest.mark.parametrize(
    ("source", "path", "what"),
    [
        ("topics: [orders, orders]", "sources.orders.topics[1]", "already"),
        ("topics: [orders], dead_letter: orders", "sources.orders.dead_letter", "this source reads"),
        ("topics: [a, b], dead_letter: b", "sources.orders.dead_letter", "this source reads"),
        ('topics: [a], dead_letter: "{topic}"', "sources.orders.dead_letter", "this source reads"),
        ('topics: [a], dead_letter: "{origin}.dlq"', "sources.orders.dead_letter", "characters"),
        ("topics: [" + "a" * 248 + "]", "sources.orders.dead_letter", "longer than 249"),
        ("topics: [.]", "sources.orders.topics[0]", "characters"),
        ("topics: [a], group: a b", "sources.orders.group", "characters"),
        ("topics: [a], schema: missing.json", "sources.orders.schema", "does not exist"),
        ("topics: [a], schema: broken.json", "sources.orders.schema", "is not JSON"),
        ("topics: [a], schema: .", "sources.orders.schema", "is not a file"),
    ],
)
def test_sources_are_checked(write: Write, source: str, path: str, what: str) -> None:
    write("{", "broken.json")
    [problem] = problems(write(MINIMAL.replace("topics: [orders]", source)))
    assert (problem.path, problem.line) == (path, 5)
    assert what in problem.what


@pytest.mark.parametrize(
    ("rest", "path", "what"),
    [
        ("schedule: {orchestration: o, instance_id: x, delay: 10}", "schedule.delay", "with a unit, like `10s`"),
        ("signal_entity: {entity: e, key: k, operation: o, delay: 5}", "signal_entity.delay", "a unit, like `10s`"),
        ("schedule: {orchestration: o, instance_id: x, version: 2}", "schedule.version", "put it in quotes"),
        (
            "cancel: {instance_id: x, on_finished: restart}",
            "cancel.on_finished",
            "`schedule` with `on_existing: raise`",
        ),
        ("cancel: {instance_id: x, grace: 0s}", "cancel.grace", "must be more than 0s, found 0s"),
        ("reply: {on_finished: restart}", "reply.on_finished", "use `dead_letter` or `ignore`"),
        ("reply: {on_missing: wait}", "reply.on_missing", "must be one of retry, dead_letter, ignore; found `wait`"),
        ("ignore: {}, limits: {}", "limits", "write `running`, `rate` or both"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_with_its_remedy(write: Write, rest: str, path: str, what: str) -> None:
    text = MINIMAL[: MINIMAL.index("routes:")] + f"routes: [{{name: r, from: orders, {rest}}}]\n"
    [problem] = problems(write(text))
    assert problem.path == f"routes[0].{path}"
    assert what in problem.what
    assert not (path == "reply.on_missing" and "wait:" in problem.what), "an answer never waits"


def test_two_sources_do_not_share_a_consumer(write: Write) -> None:
    again = "  again: {broker: local, topics: [x, orders], no_match: ignore}\nroutes:"
    text = MINIMAL.replace("routes:", again).replace("from: orders", "from: [orders, again]")
    [problem] = problems(write(text))
    assert (problem.line, problem.path) == (6, "sources.again.topics[1]")
    assert "`orders`" in problem.what
    assert loaded(write(text.replace("no_match: ignore", "no_match: ignore, group: other"))).warnings == ()


def test_nobody_else_runs_what_is_the_bridges_own(write: Write) -> None:
    [problem] = problems(write(MINIMAL + "workflows: {external: [order, bridge.dead_letter]}\n"))
    assert (problem.path, problem.line) == ("workflows.external[1]", MINIMAL.count("\n") + 1)
    assert "`bridge.` are reserved for the bridge" in problem.what


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("brokers: {l: {type: local}}", "engines", "at least one engine"),
        ("engines: {}\nbrokers: {l: {type: local}}", "engines", "at least one engine"),
        ("engine: {type: embedded}", "brokers", "at least one broker"),
    ],
)
def test_an_engine_and_a_broker_are_needed(write: Write, text: str, path: str, what: str) -> None:
    errors = [problem for problem in problems(write(text)) if problem.severity == "error"]
    assert [(problem.path, problem.line) for problem in errors] == [(path, 1)]
    assert what in errors[0].what


def test_nothing_to_do_is_a_warning(write: Write) -> None:
    bare = "engine: {type: embedded}\nbrokers: {l: {type: local}}\n"
    [warning] = loaded(write(bare)).warnings
    assert (warning.severity, warning.path) == ("warning", "sources")
    sources = bare + "sources: {s: {broker: l, topics: [t], no_match: ignore}}\n"
    [warning] = loaded(write(sources)).warnings
    assert warning.path == "routes"
    assert loaded(write(sources + "routes: [{name: r, from: [s], ignore: {}}]\n")).warnings == ()


def test_a_source_that_no_route_reads_is_a_warning(write: Write) -> None:
    text = MINIMAL.replace("routes:", "  idle: {broker: local, topics: [x], no_match: ignore}\nroutes:")
    [warning] = loaded(write(text)).warnings
    assert (warning.path, warning.line) == ("sources.idle", 6)


def test_locate_falls_back_to_the_nearest_parent(write: Write) -> None:
    found = loaded(write(MINIMAL))
    assert found.locate(("routes", 0, "from_"), "x").line == 8
    assert found.locate(("routes", 0, "from"), "x") == found.locate(("routes", 0, "from_"), "x")
    assert found.locate(("routes", 0, "schedule", "version"), "x").line == 9
    assert found.locate(("routes", 7, "when"), "x").line == 6
    assert found.locate(("ops", "http", "port"), "x").line == 1
    assert found.locate((), "x").line == 1


def test_paths_are_beside_the_file_they_are_written_in(write: Write, tmp_path: Path) -> None:
    first = write(MINIMAL, "a/bridge.yaml")
    top = write("engine: {path: state}\nbrokers: {local: {path: /abs}}\n", "b/prod.yaml")
    found = loaded(first, overlays=(top,))
    assert found.base == tmp_path / "a"
    assert found.resolve(("engines", "default", "path"), "state") == tmp_path / "b" / "state"
    assert found.resolve(("brokers", "local", "path"), "/abs") == Path("/abs")
    assert found.resolve(("ops", "log"), "x") == tmp_path / "a" / "x"


def test_paths_stay_when_the_directory_changes(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(MINIMAL)
    monkeypatch.chdir(tmp_path)
    found = loaded(Path("bridge.yaml"))
    monkeypatch.chdir("/")
    assert found.resolve(("engines", "default", "path"), "x") == tmp_path / "x"
    assert found.locate(("routes",), "x").file == "bridge.yaml"


def test_the_version_follows_the_content_only(write: Write) -> None:
    first = loaded(write(MINIMAL)).version
    assert loaded(write(f"# a comment\n{MINIMAL}ops: {{drain: 20s}}\n", "other.yaml")).version == first
    assert loaded(write(MINIMAL.replace("saga", "sagb"))).version != first
    assert len(first) == 12


def test_the_environment_of_the_process_is_the_default(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_TEST_DRAIN", "3s")
    found = load([write(MINIMAL + 'ops: {drain: "${BRIDGE_TEST_DRAIN}"}\n')])
    assert found.config.ops.drain == 3.0


def test_attribute_names_are_no_keys(write: Write) -> None:
    assert any(problem.path == "routes[0].from_" for problem in problems(write(MINIMAL.replace("from:", "from_:"))))


PARTS = st.recursive(
    st.sampled_from([None, True, 0, -1, 3.5, "", "x", "30s", "{{", "${X}", "local", "embedded", "a" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "name", "from", "broker", "topics", "match", "schedule", "worker", "ignore", "x.y", "schema"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
SECTIONS = [
    "engine",
    "engines",
    "brokers",
    "targets",
    "sources",
    "routes",
    "ops",
    "defaults",
    "workflows",
    "vars",
    "other",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(200), deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), PARTS, min_size=1))
def test_whatever_is_written_loads_or_is_told_with_its_place(tmp_path: Path, document: dict[str, object]) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(json.dumps(document))
    found: Loaded | None = None
    received: tuple[Problem, ...] = ()
    try:
        found = load([file], environ={})
    except ConfigError as error:
        received = error.problems
    assert all(problem.file == str(file) and problem.line > 0 and problem.column > 0 for problem in received)
    if found is None:
        assert received
    else:
        assert parse(found.effective(), "x", []) is not None
