"""Flow of configurations, and its diagrams: every name appears once, boxes do not overlap, no name can end a label."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.composition import load_config
from bridge.app.graph.flow import COLUMNS, Flow, FlowEdge, FlowNode, NodeKind, flow
from bridge.app.graph.svg import layout, svg
from bridge.app.graph.text import dot, mermaid
from tests.kit.processes import bridge, run_bridge

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
_MERMAID_LINE = re.compile(
    r'flowchart LR|    subgraph e\d+\["[^"]*"\]|    end|    +n\d+(\(\[|\[\(|\[\[|\[|\{\{|\[/)"[^"<>]*(<br/>[^"<>]*)?"'
    r'(\]\)|\)\]|\]\]|\]|\}\}|/\])|    n\d+ (-->|-\.->)(\|"[^"|]*"\|)? n\d+'
)
_DOT_LINE = re.compile(
    r"digraph bridge \{|\}|    \}|    (rankdir=LR|node \[fontname=sans\]);|    subgraph cluster_\d+ \{"
    r'|        label="(?:[^"\\]|\\.)*";|    +n\d+ \[label="(?:[^"\\]|\\.)*", shape=[a-z, =]+\];'
    r'|    n\d+ -> n\d+( \[(label="(?:[^"\\]|\\.)*")?(, )?(style=dashed)?\])?;'
)


def edges(found: Flow) -> set[tuple[str, str, str]]:
    names = {node.id: node.name for node in found.nodes}
    return {(names[edge.start], edge.label, names[edge.end]) for edge in found.edges}


@pytest.mark.parametrize("name", ["bridge", "sagas", "patterns", "dispatch"])
def test_a_flow_has_every_source_rule_and_target(name: str) -> None:
    loaded = load_config([ROOT / f"config/{name}.yaml"])
    found = flow(loaded)
    config = loaded.config
    by_kind = {kind: [node.name for node in found.nodes if node.kind is kind] for kind in NodeKind}
    assert by_kind[NodeKind.SOURCE] == list(config.sources)
    assert by_kind[NodeKind.RULE] == [route.name for route in config.routes]
    assert sorted(by_kind[NodeKind.TARGET]) == sorted(config.targets)
    ids = [node.id for node in found.nodes]
    assert len(set(ids)) == len(ids)
    assert {edge.start for edge in found.edges} | {edge.end for edge in found.edges} <= set(ids)
    fed = {edge.end for edge in found.edges}
    assert all(node.id in fed for node in found.nodes if node.kind not in (NodeKind.SOURCE, NodeKind.TARGET))


def test_the_flow_of_the_shop() -> None:
    found = flow(load_config([ROOT / "config/bridge.yaml"]))
    assert {
        ("orders", "", "orders.dlq"),
        ("orders", "order.created", "start-order"),
        ("start-order", "starts", "fulfil_order"),
        ("cancel-order", "cancels", "fulfil_order"),
        ("stop-fraud", "terminates", "fulfil_order"),
        ("payment-result", "raises", "fulfil_order"),
        ("customer-paid", "signals", "customer_account"),
        ("fulfil_order", "", "order-results"),
        ("shipment_watch", "parcel.silent", "parcel-alerts"),
    } <= edges(found)
    assert found.engines == {"default": "engine default (embedded)"}


def test_the_flow_of_a_saga_without_code_has_its_commands_and_answers() -> None:
    found = flow(load_config([ROOT / "config/sagas.yaml"]))
    assert {
        ("start-purchase", "starts", "purchase"),
        ("answers", "answers", "purchase"),
        ("purchase", "stock.reserve, stock.release", "stock"),
        ("purchase", "", "results"),
    } <= edges(found)


CONFIG = """
engines: {a: {type: embedded, path: a.db}, b: {type: embedded, path: b.db}}
brokers: {local: {type: local}}
targets: {next: {broker: local, topic: bills}, unused: {broker: local, topic: unused}}
sources:
  orders: {broker: local, topics: [orders, more], codec: json, no_match: ignore, dead_letter: dead}
  bills: {broker: local, topics: [bills], codec: json, no_match: ignore}
routes:
  - {name: start, from: orders, engine: a, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
  - {name: pay, from: [orders, bills], engine: a, raise_event: {instance_id: "order-{{ payload.id }}", name: paid}}
  - {name: other, from: bills, engine: b, raise_event: {instance_id: "order-{{ payload.id }}", name: paid}}
  - name: begin
    from: bills
    engine: b
    cancel: {instance_id: "bill-{{ payload.id }}", on_missing: {start: bill}}
workflows: {modules: [flows], external: [bill]}
"""
FLOWS = """
from bridge.workflow import publish, request

TARGET = "next"

def order(ctx, data):
    yield publish(ctx, TARGET, data, type="order.done")
    yield from helper(ctx)

def helper(ctx):
    yield publish(ctx, "missing", type=f"made.{ctx}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def test_engines_shared_prefixes_and_unknown_targets(project: Path) -> None:
    found = flow(load_config([project / "bridge.yaml"]))
    assert edges(found) >= {
        ("pay", "raises", "order"),
        ("other", "raises", "order-..."),
        ("begin", "starts, cancels", "bill"),
        ("order", "order.done", "next"),
        ("order", "", "missing"),
        ("orders", "", "dead"),
    }
    details = {node.name: (node.detail, node.engine) for node in found.nodes}
    assert details["next"] == ("local: bills (read by bills)", "")
    assert details["missing"] == ("not configured", "")
    assert details["unused"] == ("local: unused", "")
    assert details["order"] == ("orchestration", "a")
    assert [node.engine for node in found.nodes if node.name == "order-..."] == ["b"]
    part = flow(load_config([project / "bridge.yaml"]), ["bills"])
    assert {node.name for node in part.nodes if node.kind in (NodeKind.SOURCE, NodeKind.RULE)} == {
        "bills",
        "pay",
        "other",
        "begin",
    }
    assert "unused" not in {node.name for node in part.nodes}


def test_the_command_prints_each_form_and_needs_no_workflow_library(project: Path) -> None:
    assert bridge("graph", cwd=project) == mermaid(flow(load_config([project / "bridge.yaml"])))
    assert bridge("graph", "--format", "dot", cwd=project).startswith("digraph bridge {")
    document = ET.fromstring(bridge("graph", "--format", "svg", cwd=project))
    assert document.tag == f"{SVG}svg"
    done = run_bridge("graph", "--source", "order", cwd=project)
    assert (done.returncode, done.stderr) == (2, "error: there is no source 'order'; did you mean 'orders'?\n")


# -- any flow

NAMES = st.text(min_size=1, max_size=60) | st.sampled_from(
    ['"]', "--> n0", "<script>", "a|b", "]]>&amp;", "\\", "#35;"]
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    kinds = draw(st.lists(st.sampled_from(list(NodeKind)), max_size=25))
    nodes = [
        FlowNode(
            f"n{at}",
            kind,
            draw(NAMES),
            draw(st.just("") | NAMES),
            draw(st.sampled_from("ab")) if COLUMNS[kind] == 2 else "",
        )
        for at, kind in enumerate(kinds)
    ]
    by_column = [[node for node in nodes if COLUMNS[node.kind] == column] for column in range(4)]
    found = []
    for left, right in pairwise(by_column):
        for start in left:
            found += [
                FlowEdge(start.id, end.id, draw(st.just("") | NAMES), draw(st.booleans()))
                for end in (draw(st.lists(st.sampled_from(right), max_size=3)) if right else ())
            ]
    dead_letters = [node for node in nodes if node.kind is NodeKind.DEAD_LETTERS]
    sources = [node for node in nodes if node.kind is NodeKind.SOURCE and dead_letters]
    found += [FlowEdge(node.id, draw(st.sampled_from(dead_letters)).id, "", True) for node in sources]
    engines = {node.engine: draw(NAMES) for node in nodes if node.engine}
    return Flow(nodes, found, engines)


@given(flows())
def test_no_two_boxes_overlap_and_engines_stay_apart(found: Flow) -> None:
    places = layout(found)
    assert places.keys() == {node.id for node in found.nodes}
    for one, other in combinations(places.values(), 2):
        apart = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert apart or abs(one.y - other.y) >= 42
    workflows = sorted((node for node in found.nodes if node.engine), key=lambda node: places[node.id].y)
    order = [node.engine for node in workflows]
    assert order == sorted(order) or order == sorted(order, reverse=True)


@given(flows())
def test_every_form_is_well_formed_whatever_the_names_are(found: Flow) -> None:
    for line in mermaid(found).splitlines():
        assert _MERMAID_LINE.fullmatch(line), line
    written = dot(found)
    for line in written.rstrip("\n").split("\n"):
        assert _DOT_LINE.fullmatch(line), line
    document = ET.fromstring(svg(found))
    tags = {element.tag.removeprefix(SVG) for element in document.iter()}
    assert tags <= {"svg", "defs", "marker", "path", "rect", "g", "title", "text"}
    assert not any(
        name.startswith("on") or name in ("style", "href") for each in document.iter() for name in each.attrib
    )
    titles = [
        element
        for element in document.iter(f"{SVG}g")
        if element.get("class") in {str(k).replace(" ", "-") for k in NodeKind}
    ]
    assert len(titles) == len(found.nodes)
