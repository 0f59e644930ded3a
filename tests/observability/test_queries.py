"""Queries of the dashboard and of the alerts name metrics, labels and values that a running daemon serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge.core.states import STATES
from deploy.observability import dashboard
from tests.kit.processes import DaemonProcess, bridge
from tests.observability.test_alerts import CASES, GROUPS
from tests.wire import users

pytestmark = pytest.mark.long

CONFIG: dict[str, Any] = {
    "engine": {"type": "embedded"},
    "workflows": ["flows"],
    "brokers": {"local": {"type": "local"}},
    "targets": {"results": {"broker": "local", "topic": "results"}},
    "events": {"target": "results"},
    "sources": {
        "shop": {"limits": {"per": "{{ payload.id }}"}},
        "stock": {"quarantine": {}},
        "spoilt": {"limits": {"dead_letter_limit": 1}},
    },
    "routes": [
        {
            "name": "checkout", "from": "shop", "match": {"type": "checkout"},
            "schedule": {"orchestration": "checkout", "instance_id": "c-{{ payload.id }}", "input": "payload"},
            "limits": {"running": 10},
        },
        {
            "name": "fail", "from": "shop", "match": {"type": "fail"},
            "schedule": {"orchestration": "fail", "instance_id": "f-{{ payload.id }}"},
        },
        {
            "name": "early", "from": "shop", "match": {"type": "early"},
            "raise_event": {"instance_id": "e-{{ payload.id }}", "name": "go", "on_missing": {"wait": "1h"}},
        },
        {
            "name": "stock", "from": "stock", "for_each": "payload.lines",
            "schedule": {"orchestration": "fail", "instance_id": "s-{{ item.sku }}"},
        },
    ],
    "ops": {"http": {"port": 0}, "tracing": {"endpoint": "http://127.0.0.1:9"}},  # nothing listens there
}  # fmt: skip
for _name, _source in CONFIG["sources"].items():
    _source |= {"broker": "local", "topics": [_name], "no_match": "dead_letter"}
FLOWS = '''
from datetime import timedelta

from durabletask.task import RetryPolicy

from bridge.workflow import Saga, SagaAborted, Step, publish

ONCE = RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=1)


def reserve(ctx, call):
    return "reserved"


def release(ctx, undo):
    raise ValueError("gone")


def checkout(ctx, order):
    """A saga whose compensation fails, and a publication to a target and to none."""
    saga = Saga(ctx, "checkout")

    def body():
        yield from saga.step(Step("goods", reserve, order, compensation=release, compensation_retry=ONCE))
        raise SagaAborted("out_of_stock")

    yield from saga.run(body())
    yield publish(ctx, "results", {"id": 1}, type="checked-out")
    yield publish(ctx, order["other"], {"id": 1}, type="checked-out")


def fail(ctx, order):
    yield ctx.call_activity(release, input=order)
'''

OWN = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
"""Series that Prometheus makes itself."""
TARGET = {"job", "instance"}
"""Labels that Prometheus adds to every scraped series."""
VARIABLES = {"$__rate_interval": "5m"}

RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}


@dataclass
class Served:
    """Metric of a daemon. samples: by their labels. labels: of its samples, or as the code declares them."""

    samples: list[dict[str, str]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Metrics of a daemon that has met most kinds of failures."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "bridge.yaml").write_text(json.dumps(CONFIG))
    (directory / "flows.py").write_text(FLOWS)
    with DaemonProcess(directory) as daemon:
        order = '{"id": "k", "other": "nowhere"}'
        for kind in ("checkout", "fail", "early", "unknown"):
            bridge("publish", "shop", "--type", kind, "--key", "k", "--data", order, cwd=directory)
        bridge("publish", "stock", "--type", "counted", "--key", "k", "--data", '{"lines": 1}', cwd=directory)
        for number in range(4):
            bridge("publish", "spoilt", "--raw", "--key", str(number), "--data", "{", cwd=directory)
        daemon.wait(lambda: _has_happened(daemon), "everything has happened")
        bridge("dlq", "replay", "shop", "--stop-after-failures", "1", "--yes", cwd=directory)
        daemon.wait(lambda: any("stopped" in labels for labels in daemon.metrics("bridge_jobs")), "a stopped job")
        daemon.wait(lambda: daemon.metrics("bridge_job_items_total"), "its results")
        text = daemon.get("/metrics")[1]
    return _read(text)


def _has_happened(daemon: DaemonProcess) -> bool:
    outcomes = daemon.metrics("bridge_outcomes_total")
    happened = {labels for labels, count in outcomes.items() if count}
    wanted = {
        '{outcome="executed",source="shop"}',
        '{outcome="early",source="shop"}',
        '{outcome="dead_lettered",source="shop"}',
        '{outcome="quarantined",source="stock"}',
        '{outcome="dead_lettered",source="spoilt"}',
    }
    return (
        happened >= wanted
        and any(daemon.metrics("bridge_probing").values())
        and bool(daemon.metrics("bridge_unknown_names_total"))
        and any(daemon.metrics("bridge_early_messages").values())
    )


def _read(text: str) -> dict[str, Served]:
    declared = {}
    for line in users.metrics():
        name, labels = re.fullmatch(r"(\w+)\{(.*)\} \w+", line).groups()
        declared[name] = set(filter(None, labels.split(", ")))
    found: dict[str, Served] = {}
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        for suffix in suffixes:
            metric = found.setdefault(f"{family.name}{suffix}", Served())
            metric.samples = [each.labels for each in family.samples if each.name == f"{family.name}{suffix}"]
            metric.labels = set().union(*metric.samples) or declared.get(f"{family.name}{suffix}", set())
    return found


def _expressions() -> Iterator[tuple[str, str]]:
    for group in GROUPS:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in dashboard.dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


EXPRESSIONS = list(_expressions())


def _below(node: Any, kind: type) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(node, lambda each: found.append(each) if isinstance(each, kind) else None)
    return found


def _problems(expression: str, served: dict[str, Served]) -> Iterator[str]:
    """Yield what an expression names and no daemon serves."""
    tree = promql_parser.parse(expression)
    for selector in _below(tree, promql_parser.VectorSelector):
        yield from _unserved(selector, served)
    for aggregate in _below(tree, promql_parser.AggregateExpr):
        by = aggregate.modifier
        if by is None:
            continue
        for selector in _below(aggregate.expr, promql_parser.VectorSelector):
            if selector.name in RECORDED:
                continue
            for label in set(by.labels) - _labels(selector.name, served):
                yield f"{selector.name} has no label {label} to aggregate by"


def _labels(name: str, served: dict[str, Served]) -> set[str]:
    return OWN[name] if name in OWN else (served[name].labels if name in served else set()) | TARGET


def _unserved(selector: Any, served: dict[str, Served]) -> Iterator[str]:
    name = selector.name
    if name in RECORDED:
        return
    if name not in served and name not in OWN:
        yield f"{name} is not served"
        return
    for matcher in selector.matchers.matchers:
        label, value = matcher.name, matcher.value
        if label not in _labels(name, served):
            yield f"{name} has no label {label}"
        elif name in OWN or label in TARGET or "$" in value or matcher.op != promql_parser.MatchOp.Equal:
            continue
        elif value not in _values(name, label, served):
            yield f'{name} has no {label}="{value}"'


def _values(name: str, label: str, served: dict[str, Served]) -> set[str]:
    if (name, label) == ("bridge_component_state", "state"):
        return {str(state) for states in STATES.values() for state in states}
    if (name, label) == ("bridge_component_state", "kind"):
        return set(STATES)  # a candidate only where rules have one
    return {labels[label] for labels in served[name].samples}


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[title for title, _ in EXPRESSIONS])
def test_a_query_names_what_a_daemon_serves(title: str, expression: str, served: dict[str, Served]) -> None:
    assert list(_problems(expression, served)) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(rate(bridge_receeved_total[5m]))", "bridge_receeved_total is not served"),
        ("bridge_received", "bridge_received is not served"),
        ("bridge_received_total{sauce='shop'}", "bridge_received_total has no label sauce"),
        ("sum by (sauce) (bridge_received_total)", "bridge_received_total has no label sauce to aggregate by"),
        ("bridge_outcomes_total{outcome='parked'}", 'bridge_outcomes_total has no outcome="parked"'),
        ("bridge_end_to_end_seconds_bucket{le='11.0'}", 'bridge_end_to_end_seconds_bucket has no le="11.0"'),
        ("bridge_abandoned_total{why='x'}", "bridge_abandoned_total has no label why"),
        ("ALERTS{name='x'}", "ALERTS has no label name"),
    ],
)
def test_a_renamed_metric_is_found(expression: str, problem: str, served: dict[str, Served]) -> None:
    assert list(_problems(expression, served)) == [problem]


def test_variables_name_what_a_daemon_serves(served: dict[str, Served]) -> None:
    for variable in dashboard.dashboard()["templating"]["list"][1:]:
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert query is not None
        assert list(_problems(f"sum by ({query[2]}) ({query[1]})", served)) == []
        assert query[2] == variable["name"]


def test_cases_of_the_alerts_use_series_that_a_daemon_serves(served: dict[str, Served]) -> None:
    for case in CASES:
        for series in case.series:
            [selector] = _below(promql_parser.parse(series), promql_parser.VectorSelector)
            assert selector.name in served or selector.name in OWN, series
            labels = {matcher.name for matcher in selector.matchers.matchers}
            own = selector.name in OWN
            assert labels == _labels(selector.name, served) - (set() if own else {"job"}), series


def test_the_dashboard_is_that_of_its_table() -> None:
    assert dashboard.FILE.read_text() == dashboard.text()
    assert json.loads(dashboard.text()) == dashboard.dashboard()


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < dashboard.WIDTH
        taken |= cells


def test_each_part_of_the_daemon_has_a_row() -> None:
    assert [row for row, _ in dashboard.ROWS] == [
        "Health", "Flow", "Lag", "Latency", "Dead letters", "Early and quarantine", "Engines", "Traces",
        "Lifecycle events", "Memory",
    ]  # fmt: skip
    assert {each["name"] for each in dashboard.dashboard()["templating"]["list"]} >= {"source", "engine"}


def test_recording_rules_are_used() -> None:
    used = {
        selector.name
        for _, expression in EXPRESSIONS
        for selector in _below(promql_parser.parse(expression), promql_parser.VectorSelector)
    }
    assert used >= RECORDED


def test_the_provisioned_files_are_yaml() -> None:
    for file in Path(dashboard.__file__).parent.rglob("*.yaml"):
        assert yaml.safe_load(file.read_text())
