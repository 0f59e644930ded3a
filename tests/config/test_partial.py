"""Problems between entries are found beside invalid values, and no placeholder for an invalid value causes one."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bridge.app.check.configuration import check
from bridge.config.source import survey
from bridge.core.errors import ConfigPath, Problem
from tests.kit.examples import examples

VALID: dict[str, Any] = yaml.safe_load("""
engines: {default: {type: embedded}, eu: {type: scheduler, task_hub: orders}}
brokers:
  local: {type: local, partitions: 2}
  kafka: {type: kafka, bootstrap_servers: "localhost:9092", tls: {}}
  bus: {type: servicebus, namespace: ns}
registries: {main: {url: "https://main"}, other: {url: "https://other"}}
targets:
  results: {broker: local, topic: results}
  typed: {broker: kafka, topic: typed, codec: avro, schemas: {registry: main}}
  queue: {broker: bus, queue: results}
sources:
  orders: {broker: local, topics: [orders, more], group: one, ordering_domain: shared, no_match: ignore}
  answers: {broker: kafka, topics: [answers], codec: avro, registry: other, ordering_domain: shared, no_match: ignore}
  pattern: {broker: kafka, topics: [], kafka: {pattern: "a.*"}, quarantine: {engine: eu}, no_match: ignore}
  payments: {broker: bus, queue: payments, sessions: true, dead_letter: letters, quarantine: {}, no_match: ignore}
  news: {broker: bus, topic: news, subscription: mine, on_unreadable: skip, no_match: ignore}
  letters: {broker: bus, queue: payments, sub_queue: dead_letter, dead_letter: other, no_match: ignore}
sagas:
  order:
    replies: answers
    publish_outcome: results
    steps:
      - name: reserve
        command: {target: results, type: reserve}
        refused: reply.no
        detail: "{{ reply.why }}"
        timeout: 5s
        compensation: {target: results, type: release, reply: true}
        compensation_timeout: 5s
      - parallel:
          - {name: stamp, command: {target: queue, type: stamp, reply: false}}
          - steps: [{name: pack, command: {target: results, type: pack}, timeout: 4s}]
      - {point_of_no_return: true}
      - name: ship
        command: {target: results, type: ship, data: "{'at': steps.reserve.id}"}
        timeout: 3s
        retry: {attempts: 3}
routes:
  - {name: begin, from: [orders], match: {type: [a, b]}, schedule: {saga: order, instance_id: "order-{{ payload.id }}"}}
  - {name: paid, from: payments, engine: eu, raise_event: {instance_id: "x-1", name: paid, on_missing: {wait: 1h}}}
  - {name: drop, from: news, cancel: {instance_id: "x-1", on_missing: {start: greet}}}
  - {name: answers, from: answers, reply: {}}
  - {name: signal, from: [pattern, letters], signal_entity: {entity: e, key: k, operation: o}}
ops: {http: {port: 0}}
""")
WRONG: tuple[Any, ...] = (None, True, -1, "", "?? no such thing", [], [None], ["x"], {}, {"??": 1})

PLANTED: tuple[tuple[str, Any, str, str], ...] = (
    ("sources.orders.broker", "lokal", "brokers", "there is no broker `lokal`"),
    ("targets.results.broker", "lokal", "brokers", "there is no broker `lokal`"),
    ("targets.results.topic", "x" * 250, "targets.results brokers.local", "has 1 to 249 of"),
    ("sources.payments.topics", ["x"], "sources.payments.broker brokers.bus", "which has no `topics`"),
    ("targets.queue.topic", "x", "targets.queue brokers.bus", "write either `queue` or `topic`"),
    ("sources.answers.registry", "mian", "sources.answers.codec registries", "did you mean `main`?"),
    ("sources.orders.topics", ["same", "same"], "sources.orders", "is read by this source"),
    ("sources.orders.dead_letter", "{topic}", "sources.orders", "which this source reads"),
    ("sources.pattern.quarantine.engine", "ue", "engines", "there is no engine `ue`"),
    ("sources.payments.dead_letter", None, "sources.payments brokers.bus", "cannot be moved"),
    ("routes.3.name", "begin", "routes.0.name", "is taken by the route"),
    ("routes.1.from", "nope", "sources", "there is no source `nope`"),
    ("routes.4.from", ["pattren", "letters"], "sources", "did you mean `pattern`?"),
    ("routes.1.engine", "ue", "engines", "there is no engine `ue`"),
    ("routes.0.schedule.saga", "ordre", "sagas", "did you mean `order`?"),
    ("routes.0.cancel", {"instance_id": "x"}, "routes.0.schedule", "exactly one of"),
    ("routes.0.schedule.orchestration", "x", "routes.0.schedule.saga", "write either `orchestration` or `saga`"),
    ("sagas.order.steps.3.command.target", "x", "targets", "there is no target `x`"),
    ("sagas.order.replies", None, "sagas.order.steps", "has no source of answers"),
    ("sagas.order.steps.3.name", None, "", "a step needs a name"),
    ("sagas.order.steps.3", {"steps": []}, "", "must be directly below `parallel`"),
    ("sources.orders.schema", "none.json", "sources.orders", "none.json does not exist"),
)
"""Problems between entries: path, value, other paths that they depend on, and part of the text."""


def parsed(dotted: str) -> ConfigPath:
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))


def places(value: Any, path: ConfigPath = ()) -> Iterator[ConfigPath]:
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


PATHS = st.sampled_from(list(places(VALID)))
VALUES = st.sampled_from((..., *WRONG))


def written(path: ConfigPath, value: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Copy of a document with another value at a path; without the key if the value is ...."""
    document = copy.deepcopy(document)
    parent: Any = document
    for part in path[:-1]:
        parent = parent[part]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return document


def found(document: dict[str, Any]) -> tuple[Problem, ...]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "bridge.yaml")
        file.write_text(json.dumps(document, indent=1))
        return survey([file]).problems


def concerns(path: ConfigPath, other: ConfigPath) -> bool:
    shortest = min(len(path), len(other))
    return path[:shortest] == other[:shortest]


def test_the_configuration_is_valid() -> None:
    assert found(VALID) == ()


@pytest.mark.parametrize("problem", PLANTED, ids=lambda each: each[0])
def test_a_problem_between_entries_is_found(problem: tuple[str, Any, str, str]) -> None:
    path, value, _, text = problem
    assert any(text in problem.what for problem in found(written(parsed(path), value, VALID)))


@given(problem=st.sampled_from(PLANTED), path=PATHS, wrong=VALUES)
@settings(max_examples=examples(100), deadline=None)
def test_no_invalid_value_elsewhere_hides_it(problem: tuple[str, Any, str, str], path: ConfigPath, wrong: Any) -> None:
    planted, value, dependencies, text = problem
    assume(not any(concerns(path, parsed(each)) for each in (planted, *dependencies.split())))
    document = written(path, wrong, written(parsed(planted), value, VALID))
    assert any(text in problem.what for problem in found(document))


@given(path=PATHS, wrong=VALUES)
@settings(max_examples=examples(100), deadline=None)
def test_no_placeholder_is_reported(path: ConfigPath, wrong: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "bridge.yaml")
        file.write_text(json.dumps(written(path, wrong, VALID)))
        first, all_of_them = survey([file]).problems, check([file], imports=False).problems
    assert set(first) <= set(all_of_them)
    invalid = any(problem.severity == "error" for problem in first)
    for problem in all_of_them:
        assert not any(word in problem.what for word in ("`none`", "no.such.source", "none:1", "route-"))
        assert not (invalid and "steps has no" in problem.what)


@pytest.mark.parametrize(
    ("path", "wrong"), [("sources.orders.broker", "lokal"), ("brokers", ...), ("routes.1.from", {})]
)
def test_a_check_continues_after(path: str, wrong: Any, tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(json.dumps(written(parsed(path), wrong, VALID)))
    assert any(problem.path.startswith(path.split(".")[0]) for problem in check([file], imports=False).problems)


def test_a_list_written_as_its_only_member_has_no_position() -> None:
    one, listed = (found(written(("routes", 1, "from"), source, VALID)) for source in ("nope", ["nope"]))
    assert {problem.path for problem in one if "nope" in problem.what} == {"routes[1].from"}
    assert {problem.path for problem in listed if "nope" in problem.what} == {"routes[1].from[0]"}
