"""Random and damaged configurations: no check fails, every problem has a code, and fixes settle."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.check.configuration import check
from bridge.app.check.fixes import fixes, write
from bridge.app.check.report import github_annotations, sarif
from bridge.core.problems.codes import CODES
from tests.docs.document import ROOT

SOUND = """
engine: {type: embedded, path: .bridge/engine}
workflows: {external: [order_saga, follow_up]}
vars: {large: 1000.0, names: [a, b]}
brokers:
  local: {type: local, path: .bridge/broker}
targets:
  stock: {broker: local, topic: stock}
sources:
  orders:
    broker: local
    topics: [orders]
    no_match: dead_letter
    ordering: "{{ payload.id }}"
    limits: {per: "{{ payload.tenant }}"}
  payments: {broker: local, topics: [payments], codec: json, attributes: {type: payload.kind}, no_match: ignore}
  answers: {broker: local, topics: [answers], no_match: dead_letter}
sagas:
  purchase:
    replies: answers
    steps:
      - name: stock
        command: {target: stock, type: stock.reserve, data: "{'lines': input.lines}"}
        refused: reply.status == 'sold_out'
        timeout: 2m
routes:
  - name: start
    from: orders
    match: {type: [order.created, order.changed], payload.kind: web}
    when: payload.total >= vars.large && payload.code.matches('^[A-Z]+$')
    continue: true
    for_each: payload.lines
    limits: {rate: 5/s, per: {value: "{{ payload.tenant }}", rate: 1/s}}
    schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}-{{ index }}", input: item}
  - name: buy
    from: orders
    schedule: {saga: purchase, instance_id: "purchase-{{ payload.id }}", tags: {region: "{{ event.key }}"}}
  - name: paid
    from: payments
    match: {type: paid, headers.region: eu}
    raise_event: {instance_id: "order-{{ payload.order }}", name: paid, on_missing: {wait: 1h}, on_finished: ignore}
  - {name: answers, from: answers, reply: {}}
  - {name: never, from: answers, ignore: {reason: a test}}
check:
  ignore:
    - {code: R016, at: routes.never, reason: a test}
"""

_ODD = st.sampled_from(
    [
        None, True, 0, -1, 2**70, 1.5, "", " ", "yes", "on", "{{", "}}", "{{ }}", "{{ payload.x }}",
        "order-{payload.id}", "payload.x = 5 and not payload.y", "payload.x == 'a' && payload.x == 'b'",
        "event.type == 5", "vars.large", "1 / 0", "payload.x.matches('(')", "a$b*|^", "order.*", "*", "${X}",
        "${X:-y}", "$${", "@x", "bridge:x", "\u2028", "\x00", "é😀", "# bridge: ignore[R001] x", "retry", "1h",
        "x" * 300, "(" * 60, [], {}, [[]], {"a": {"b": [1]}}, ["x", 5, None], {"wait": "1h"}, {"park": "1h"},
        {"start": "x"}, {"type": "kafka"}, {"type": "servicebus"},
    ]
)  # fmt: skip


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """Text of a configuration in which values were replaced, removed or added."""
    value: Any = yaml.safe_load(SOUND)
    key: Any
    for _ in range(draw(st.integers(1, 4))):
        node: Any = value
        parents: list[tuple[Any, Any]] = []
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            parents.append((node, key))
            node = node[key]
        parent: Any
        parent, key = draw(st.sampled_from(parents)) if parents else (value, "surprise")
        match draw(st.sampled_from(["replace", "remove", "add", "double"])):
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["park", "when", "surprise", "a.b", "${Y}", "*"]))] = deepcopy(draw(_ODD))
            case "double" if isinstance(parent, list):
                parent.append(parent[key])
            case _:
                parent[key] = deepcopy(draw(_ODD))
    text = yaml.safe_dump(
        value, allow_unicode=True, sort_keys=False, default_flow_style=draw(st.sampled_from([None, True]))
    )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from([" ", "\n", "#", "\t", "'", "{", "- ", " # bridge: ignore[R005] x"]))
            + text[at:]
        )
    return text


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def _examine(file: Path) -> None:
    report = check([file], imports=False)
    for problem in report.problems:
        assert problem.severity == CODES[problem.code].severity, problem
    assert len(list(github_annotations(report))) == len(sarif(report)["runs"][0]["results"]) == len(report.problems)
    assert sum(report.counts.values()) >= 0


@given(text=_damaged())
def test_no_check_fails(directory: Path, text: str) -> None:
    file = directory / "bridge.yaml"
    file.write_text(text, encoding="utf-8")
    _examine(file)


@given(text=_damaged())
def test_fixes_settle(directory: Path, text: str) -> None:
    file = directory / "fixed.yaml"
    file.write_text(text, encoding="utf-8")
    for _ in range(6):
        report = check([file], imports=False)
        found = [] if report.loaded is None else fixes(report.loaded, report.problems)
        if not found:
            return
        before = len(report.problems)
        for fixed in found:
            write(fixed)
        _examine(file)
        assert before
    raise AssertionError(f"fixes do not settle:\n{file.read_text()}")


def test_the_sound_configuration_has_no_problem(directory: Path) -> None:
    file = directory / "sound.yaml"
    file.write_text(SOUND)
    assert check([file], imports=False).problems == ()


@pytest.mark.parametrize("name", ["bridge.yaml", "patterns.yaml", "sagas.yaml", "dispatch.yaml"])
def test_the_samples_of_the_repository_have_no_problem(name: str) -> None:
    # Module names of workflows are the same for all of them
    assert check([ROOT / "config" / name]).problems == ()
