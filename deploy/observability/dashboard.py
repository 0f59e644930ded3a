"""Dashboard of Grafana as a table of panels: `python -m deploy.observability.dashboard` writes its JSON.

Names of metrics and labels are compared with those of a running daemon by tests/observability/test_queries.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana/dashboards/durable-bridge.json"
UID = "durable-bridge"

WIDTH, HEIGHT = 24, 8
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SELECTIONS = {
    "{S}": '{source=~"$source", instance=~"$instance"}',
    "{E}": '{engine=~"$engine", instance=~"$instance"}',
    "{I}": '{instance=~"$instance"}',
}
"""Series of the selected sources, engines and processes."""


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    "stat": {"textMode": "value_and_name", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "table": {},
}


@dataclass(frozen=True)
class Panel:
    """Panel of the dashboard.

    queries: (expression, legend), with the keys of `_SELECTIONS` in the expression.
    width: of 24 columns.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""
    stacked: bool = False


def _rate(metric: str, by: str, select: str = "{S}") -> str:
    return f"sum by ({by}) (rate({metric}{select}[$__rate_interval]))"


def _quantile(quantile: float, metric: str, by: str, select: str = "{S}") -> tuple[str, str]:
    expression = _rate(f"{metric}_bucket", f"{by}, le", select)
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return f"histogram_quantile({quantile}, {expression})", f"{legend} p{round(quantile * 100)}"


def _quantiles(metric: str, by: str, select: str = "{S}") -> tuple[tuple[str, str], ...]:
    return tuple(_quantile(quantile, metric, by, select) for quantile in (0.5, 0.95, 0.99))


_UNACCOUNTED = (
    "sum by (source) (bridge_received_total{S}) - sum by (source) (bridge_outcomes_total{S})"
    " - (sum by (source) (bridge_abandoned_total{S}) or sum by (source) (bridge_received_total{S}) * 0)"
    " - sum by (source) (bridge_in_flight{S})"
)

_NOT_CALM = 'max by (kind, name, state) (bridge_component_state{state!~"idle|consuming|up", instance=~"$instance"}) > 0'

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Health",
        (
            Panel("Daemons ready", (("bridge_ready{I}", "{{instance}}"),), kind="stat", width=4,
                  text="1 while /readyz answers 200."),
            Panel("Engines up", (("min by (engine) (bridge_engine_up{E})", "{{engine}}"),), kind="stat", width=4),
            Panel("Firing alerts", (('ALERTS{alertname=~"Bridge.*", alertstate="firing"}', "{{alertname}}"),),
                  kind="table", width=8, text="docs/runbooks.md has a section for each alert."),
            Panel("Components that wait or fail", (
                (_NOT_CALM, "{{kind}} {{name}}: {{state}}"),
            ), kind="table", width=8),
            Panel("Versions", (("bridge_info{I}", "{{instance}} {{version}} {{config}}"),),
                  kind="table", width=24, text="Version of the bridge and of its configuration."),
        ),
    ),
    (
        "Flow",
        (
            Panel("Received", ((_rate("bridge_received_total", "source"), "{{source}}"),), "mps"),
            Panel("Outcomes", ((_rate("bridge_outcomes_total", "outcome"), "{{outcome}}"),), "mps", stacked=True),
            Panel("Messages not accounted for", (
                (_UNACCOUNTED, "{{source}}"),
            ), text="received - outcomes - abandoned - in flight, always 0."),
            Panel("In flight", (
                ("sum by (source) (bridge_in_flight{S})", "{{source}}"),
                ("sum by (source) (bridge_queued{S})", "{{source}} queued"),
                ("sum by (source) (bridge_value_waiting{S})", "{{source}} waits for its value"),
            )),
            Panel("Commands", ((_rate("bridge_commands_total", "route, command"), "{{route}} {{command}}"),), "ops"),
            Panel("Retries, abandoned and lost locks", (
                (_rate("bridge_retries_total", "source"), "{{source}} retries"),
                (_rate("bridge_abandoned_total", "source, reason"), "{{source}} {{reason}}"),
                (_rate("bridge_locks_lost_total", "source"), "{{source}} locks lost"),
            ), "mps"),
            Panel("Limits of routes", (
                ("max by (route) (bridge_route_running)", "{{route}} running"),
                ("max by (route) (bridge_route_running_limit)", "{{route}} limit"),
                ("sum by (route) (bridge_route_waiting)", "{{route}} waiting"),
            )),
            Panel("Published", (
                (_rate("bridge_published_total", "target", "{I}"), "{{target}}"),
                (_rate("bridge_publish_failures_total", "target", "{I}"), "{{target}} failed"),
            ), "mps"),
            Panel("Broker", (
                (_rate("bridge_commits_total", "source"), "{{source}} commits"),
                (_rate("bridge_rebalances_total", "source"), "{{source}} rebalances"),
                (_rate("bridge_reconnects_total", "source"), "{{source}} reconnects"),
            ), "ops"),
        ),
    ),
    (
        "Lag",
        (
            Panel("Lag in records", (("sum by (source, topic) (bridge_lag{S})", "{{source}} {{topic}}"),)),
            Panel("Oldest record that is not completed", (
                ("max by (source, topic) (bridge_oldest_unprocessed_seconds{S})", "{{source}} {{topic}}"),
            ), "s"),
            Panel("Uncommitted records", (
                ("sum by (source, topic) (bridge_uncommitted_records{S})", "{{source}} {{topic}}"),
            ), text="Delivered again after a crash."),
        ),
    ),
    (
        "Latency",
        (
            Panel("From the broker's timestamp to settlement", _quantiles("bridge_end_to_end_seconds", "source"), "s"),
            Panel("From receipt to settlement", _quantiles("bridge_processing_seconds", "source"), "s"),
            Panel("Late messages", (
                ('source:bridge_slo_late:ratio1h{source=~"$source"}', "{{source}} 1 h"),
                ('source:bridge_slo_late:ratio1d{source=~"$source"}', "{{source}} 1 d"),
                ("1 - bridge:end_to_end_slo:objective", "budget"),
            ), "percentunit", text="Ratio of messages beyond the objective, and the ratio that the budget allows."),
        ),
    ),
    (
        "Dead letters",
        (
            Panel("Dead letters by reason", (
                (_rate("bridge_dead_letters_total", "source, reason"), "{{source}} {{reason}}"),
                (_rate("bridge_late_dead_letters_total", "source, reason"), "{{source}} {{reason}} after a wait"),
            ), "mps", width=12),
            Panel("Dead-letter limit", (
                ("max by (source) (bridge_probing{S})", "{{source}} probing"),
                ("max by (source, route) (bridge_dead_letter_pause_seconds{S})", "{{source}} {{route}} pause"),
            ), "s", width=6),
            Panel("Messages that cannot be parsed", (
                (_rate("bridge_unreadable_messages_total", "source, topic, fault"), "{{source}} {{topic}} {{fault}}"),
            ), "mps", width=6),
            Panel("Open dead letters", (
                ("max by (source, reason, route) (bridge_dead_letters_open{S})", "{{source}} {{reason}} {{route}}"),
            ), width=12, text="Dead letters that wait for a person. All daemons count the same ones."),
            Panel("Age of the oldest open dead letter", (
                ("max by (source) (bridge_dead_letter_oldest_seconds{S})", "{{source}}"),
            ), "s", width=12),
            Panel("Jobs", (
                ('max by (kind, state) (bridge_jobs{state=~"selecting|running|paused|stopped", instance=~"$instance"})',
                 "{{kind}} {{state}}"),
            ), width=12, text="Unfinished jobs. A stopped one waits for a person: `bridge jobs list --state stopped`."),
            Panel("Results of jobs", (
                (_rate("bridge_job_items_total", "kind, result", "{I}"), "{{kind}} {{result}}"),
            ), "ops", width=12),
        ),
    ),
    (
        "Early and quarantine",
        (
            Panel("Waiting messages", (
                ("max by (engine) (bridge_early_messages{E})", "{{engine}} early"),
                ("max by (engine) (bridge_early_messages_expiring{E})", "{{engine}} early, expiring soon"),
                ("max by (engine) (bridge_waiting_messages{E})", "{{engine}} early and quarantined"),
            )),
            Panel("Events of early messages", (
                (_rate("bridge_early_message_events_total", "engine, event", "{E}"), "{{engine}} {{event}}"),
            ), "mps"),
            Panel("Quarantine", (
                ("max by (source) (bridge_quarantined_keys{S})", "{{source}} keys"),
                ("sum by (engine, event) (increase(bridge_quarantine_events_total{E}[$__rate_interval]))",
                 "{{engine}} {{event}}"),
            )),
        ),
    ),
    (
        "Engines",
        (
            Panel("Instances by status", (
                ("max by (engine, status) (sum by (engine, status, instance) (bridge_instances{E}))",
                 "{{engine}} {{status}}"),
            ), text="Counted by the engine, the same in every daemon.", stacked=True),
            Panel("Finished instances", (
                (_rate("bridge_instances_finished_total", "orchestration, status", "{E}"),
                 "{{orchestration}} {{status}}"),
            ), "ops"),
            Panel("Sagas by outcome", (
                (_rate("bridge_sagas_total", "saga, outcome", "{I}"), "{{saga}} {{outcome}}"),
            ), "ops"),
            Panel("Activities", (
                (_rate("bridge_activity_seconds_count", "activity, result", "{I}"),
                 "{{activity}} {{result}}"),
            ), "ops"),
            Panel("Duration of activities", (
                _quantile(0.95, "bridge_activity_seconds", "activity", "{I}"),
            ), "s"),
            Panel("Duration of orchestrations", (
                _quantile(0.95, "bridge_orchestration_seconds", "orchestration", "{I}"),
            ), "s"),
            Panel("Engine requests", (
                (_rate("bridge_engine_request_seconds_count", "engine, command, result", "{E}"),
                 "{{engine}} {{command}} {{result}}"),
            ), "ops"),
            Panel("Duration of engine requests", (
                _quantile(0.95, "bridge_engine_request_seconds", "engine, command", "{E}"),
            ), "s"),
            Panel("Work on engines", (
                (_rate("bridge_engine_actions_total", "engine, kind", "{E}"), "{{engine}} {{kind}}"),
            ), "ops", text="The scheduler bills each action."),
            Panel("Starts that wait for max_actions_per_minute", (
                ("sum by (engine) (bridge_engine_starts_waiting{E})", "{{engine}} waiting"),
                (_rate("bridge_engine_starts_delayed_total", "engine", "{E}"), "{{engine}} delayed per second"),
            )),
            Panel("Orchestrations in memory", (
                ("sum by (instance) (bridge_sessions{I})", "{{instance}} in memory"),
                (_rate("bridge_replays_total", "instance", "{I}"), "{{instance}} replays per second"),
            )),
            Panel("Failures of workflow code", (
                ("sum by (engine, orchestration) (bridge_incompatible_total{E})",
                 "{{engine}} {{orchestration}} incompatible"),
                ("sum by (engine, kind) (bridge_unknown_names_total{E})", "{{engine}} unknown {{kind}}"),
                ("sum by (engine) (bridge_worker_stuck_pools{E})", "{{engine}} stuck pools"),
                ("sum by (source) (bridge_bugs_total{S})", "{{source}} bugs"),
                ("sum by (engine, kind) (bridge_engine_faults_total{E})", "{{engine}} faults {{kind}}"),
            ), text="Totals since the start of the processes."),
        ),
    ),
    (
        "Traces",
        (
            Panel("Spans", (
                (_rate("bridge_spans_sent_total", "instance", "{I}"), "{{instance}} sent"),
                (_rate("bridge_spans_dropped_total", "instance, reason", "{I}"), "{{instance}} dropped: {{reason}}"),
            ), "ops", text="Only while traces are on."),
            Panel("Receiver", (("bridge_trace_receiver_up{I}", "{{instance}}"),), text="1 while it takes spans."),
            Panel("Spans that wait", (
                ("sum by (instance) (bridge_spans_buffered{I})", "{{instance}} in memory"),
                ("sum by (instance) (bridge_spans_backlog_bytes{I})", "{{instance}} bytes in files of engines"),
            )),
        ),
    ),
    (
        "Lifecycle events",
        (
            Panel("Events", (
                (_rate("bridge_lifecycle_events_published_total", "kind", "{I}"), "{{kind}}"),
                (_rate("bridge_lifecycle_events_dropped_total", "instance, reason", "{I}"),
                 "{{instance}} dropped: {{reason}}"),
            ), "ops", text="Only where `events` is configured."),
            Panel("Target", (("bridge_lifecycle_target_up{I}", "{{instance}}"),), text="1 while it takes events."),
            Panel("Events that wait", (
                ("sum by (instance, place) (bridge_lifecycle_events_waiting{I})", "{{instance}} in {{place}}"),
            )),
        ),
    ),
    (
        "Memory",
        (
            Panel("Memory of the processes", (
                ('process_resident_memory_bytes{job="durable-bridge", instance=~"$instance"}', "{{instance}}"),
            ), "bytes", width=6),
            Panel("Messages in memory", (
                ("sum by (source) (bridge_in_flight_bytes{S})", "{{source}} in flight"),
                ("sum by (source) (bridge_value_waiting_bytes{S})", "{{source}} waits for its value"),
            ), "bytes", width=6),
            Panel("Memory of engines", (
                ("sum by (engine, kind) (bridge_engine_cache_bytes{E})", "{{engine}} {{kind}}"),
                ("max by (engine) (bridge_waiting_bytes{E})", "{{engine}} waiting messages, on the engine"),
            ), "bytes", width=6),
            Panel("Processors", (
                ('rate(process_cpu_seconds_total{job="durable-bridge", instance=~"$instance"}[$__rate_interval])',
                 "{{instance}}"),
            ), "percentunit", width=6),
        ),
    ),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard as JSON types."""
    return {
        "id": None,
        "uid": UID,
        "title": "Durable bridge",
        "tags": ["durable-bridge"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_panels()),
    }  # fmt: skip


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    queries = (
        ("instance", 'label_values(bridge_info{job="durable-bridge"}, instance)'),
        ("source", "label_values(bridge_received_total, source)"),
        ("engine", "label_values(bridge_engine_up, engine)"),
    )
    return [
        source,
        *(
            {
                "name": name,
                "label": name.capitalize(),
                "type": "query",
                "datasource": _DATASOURCE,
                "query": {"query": query, "refId": "A"},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
            for name, query in queries
        ),
    ]


def _panels() -> Iterator[dict[str, Any]]:
    number = top = 0
    for row, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row,
            "collapsed": False,
            "panels": [],
            "gridPos": _at(0, top, 24, 1),
        }
        top += 1
        left = 0
        for panel in panels:
            if left + panel.width > WIDTH:
                left, top = 0, top + HEIGHT
            number += 1
            yield _panel(panel, number) | {"gridPos": _at(left, top, panel.width, HEIGHT)}
            left += panel.width
        top += HEIGHT


def _at(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    drawn = panel.kind == "timeseries"
    custom = {"fillOpacity": 15, "showPoints": "never"} | ({"stacking": {"mode": "normal"}} if panel.stacked else {})
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": _DATASOURCE,
            "expr": _selected(expression),
            "legendFormat": legend,
        }
        | ({} if drawn else {"instant": True, "range": False} | ({"format": "table"} if panel.kind == "table" else {}))
        for at, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit} | ({"custom": custom} if drawn else {}), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": targets,
    }


def _selected(expression: str) -> str:
    for key, labels in _SELECTIONS.items():
        expression = expression.replace(key, labels)
    return expression


def text() -> str:
    """Return the text of the file: one line for a setting, and one for a query."""
    return _object(dashboard(), "") + "\n"


def _object(members: dict[str, Any], indent: str) -> str:
    return "{\n" + ",\n".join(f"{indent} {_member(*each, f'{indent} ')}" for each in members.items()) + f"\n{indent}}}"


def _member(name: str, value: Any, indent: str) -> str:
    if name not in ("panels", "list", "targets") or not value:
        nested = name == "templating"
        return f"{json.dumps(name)}: {_object(value, indent) if nested else json.dumps(value)}"
    items = (_object(each, f"{indent} ") if name == "panels" else json.dumps(each) for each in value)
    return f"{json.dumps(name)}: [\n" + ",\n".join(f"{indent} {each}" for each in items) + f"\n{indent}]"


if __name__ == "__main__":
    FILE.write_text(text())
