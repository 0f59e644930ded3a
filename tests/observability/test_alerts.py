"""Alert rules under promtool: each alert has cases in which it fires, and others in which it does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.document import ROOT, anchors
from tests.kit.go_tools import ToolMissing
from tests.observability.tool import promtool

pytestmark = pytest.mark.timeout(580)  # the first run builds promtool

RULES = ROOT / "deploy/observability/alerts.yaml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}

UP = {'up{job="durable-bridge", instance="a:8099"}': "1x6000"}
"""A daemon that is scraped, without which every case would be one of BridgeDaemonGone."""


@dataclass(frozen=True)
class Case:
    """Series, one sample a minute, and the expected alerts at a time.

    fires: labels of each alert without the severity, and its summary.
    """

    alert: str
    name: str
    at: str
    series: dict[str, str]
    fires: tuple[tuple[dict[str, str], str], ...] = ()


def fires(alert: str, name: str, at: str, series: dict[str, str], summary: str, /, **labels: str) -> Case:
    return Case(alert, name, at, series, ((labels, summary),))


def quiet(alert: str, name: str, at: str, series: dict[str, str]) -> Case:
    return Case(alert, name, at, series)


def _state(kind: str, state: str, values: str) -> dict[str, str]:
    return {f'bridge_component_state{{kind="{kind}", name="orders", state="{state}", instance="a:8099"}}': values}


def _times(in_time: str, every: str) -> dict[str, str]:
    """Histogram of the end-to-end time: messages within the objective, and all messages."""
    return {
        'bridge_end_to_end_seconds_bucket{source="orders", le="10.0", instance="a:8099"}': in_time,
        'bridge_end_to_end_seconds_count{source="orders", instance="a:8099"}': every,
    }


def _dead_letters(
    values: str, reason: str = "decode_error", name: str = "bridge_dead_letters_total", instance: str = "a"
) -> dict[str, str]:
    return {f'{name}{{source="orders", reason="{reason}", instance="{instance}:8099"}}': values}


def _sagas(outcome: str, values: str) -> dict[str, str]:
    return {f'bridge_sagas_total{{saga="checkout", outcome="{outcome}", instance="a:8099"}}': values}


def _ends(status: str, values: str) -> dict[str, str]:
    labels = f'engine="default", orchestration="order_saga", status="{status}", instance="a:8099"'
    return {f"bridge_instances_finished_total{{{labels}}}": values}


def _counts(received: str, executed: str, in_flight: str) -> dict[str, str]:
    return {
        'bridge_received_total{source="orders", instance="a:8099"}': received,
        'bridge_outcomes_total{source="orders", outcome="executed", instance="a:8099"}': executed,
        'bridge_outcomes_total{source="orders", outcome="ignored", instance="a:8099"}': "5x60",
        'bridge_in_flight{source="orders", instance="a:8099"}': in_flight,
    }


HOUR, DAY = 60, 24 * 60
ENGINE = '{engine="default", instance="a:8099"}'
OTHER_ENGINE = '{engine="default", instance="b:8099"}'
SOURCE = '{source="orders", instance="a:8099"}'

CASES = (
    # -- the objective: 99 % within 10 s
    fires(
        "BridgeEndToEndBudgetBurnsFast", "20 % late for two hours", "2h5m",
        _times("0+80x125", "0+100x125"), "Source orders: 20% of the messages are late", source="orders",
    ),
    fires(
        "BridgeEndToEndBudgetBurnsFast", "8 % late for seven hours", "7h",
        _times("0+92x420", "0+100x420"), "Source orders: 8% of the messages are late", source="orders",
    ),
    quiet(
        "BridgeEndToEndBudgetBurnsFast", "half were late, and none in the last 35 minutes", "1h",
        _times("0+50x25 1350+100x35", "0+100x60"),
    ),
    quiet("BridgeEndToEndBudgetBurnsFast", "half a percent is late", "7h", _times("0+995x420", "0+1000x420")),
    quiet("BridgeEndToEndBudgetBurnsFast", "3 late messages of 3 are too few", "50m", _times("0x50", "0x20 3x30")),
    quiet("BridgeEndToEndBudgetBurnsFast", "no messages", "2h", _times("100x120", "100x120")),
    fires(
        "BridgeEndToEndBudgetBurnsSlowly", "4 % late for a day", "26h",
        _times(f"0+96x{26 * HOUR}", f"0+100x{26 * HOUR}"), "Source orders: 4% of the messages are late",
        source="orders",
    ),
    fires(
        "BridgeEndToEndBudgetBurnsSlowly", "2 % late for three days", "3d2h",
        _times(f"0+98x{74 * HOUR}", f"0+100x{74 * HOUR}"), "Source orders: 2% of the messages are late",
        source="orders",
    ),
    quiet(
        "BridgeEndToEndBudgetBurnsSlowly", "half a percent is late", "3d2h",
        _times(f"0+995x{74 * HOUR}", f"0+1000x{74 * HOUR}"),
    ),
    # -- daemons
    Case(
        "BridgeDaemonGone", "a scrape fails", "5m", {'up{job="durable-bridge", instance="a:8099"}': "1x2 0x5"},
        (({"job": "durable-bridge", "instance": "a:8099"}, "Daemon a:8099 does not answer"),),
    ),
    Case(
        "BridgeDaemonGone", "nothing is scraped", "5m", {'up{job="other", instance="a:8099"}': "1x6"},
        (({"job": "durable-bridge"}, "Daemon durable-bridge does not answer"),),
    ),
    quiet("BridgeDaemonGone", "one scrape fails", "5m", {'up{job="durable-bridge", instance="a:8099"}': "1 1 0 1 1 1"}),
    fires(
        "BridgeDaemonNotReady", "not ready for five minutes", "10m", {'bridge_ready{instance="a:8099"}': "1x3 0x7"},
        "Daemon a:8099 is not ready", instance="a:8099",
    ),
    quiet("BridgeDaemonNotReady", "a start takes a minute", "10m", {'bridge_ready{instance="a:8099"}': "0 1x9"}),
    fires(
        "BridgeWorkerStuck", "a pool of one of two workers", "3m",
        {f"bridge_worker_stuck_pools{ENGINE}": "0 1x3", f"bridge_worker_stuck_pools{OTHER_ENGINE}": "0x4"},
        "Engine default: a worker is stuck", engine="default",
    ),
    quiet("BridgeWorkerStuck", "free again", "3m", {f"bridge_worker_stuck_pools{ENGINE}": "1 0x3"}),
    fires(
        "BridgeCountsDisagree", "one message is missing", "10m", _counts("0+10x10", "0 4+10x10", "0x10"),
        "Source orders on a:8099: 1 messages are not accounted for", instance="a:8099", source="orders",
    ),
    quiet("BridgeCountsDisagree", "two messages are in flight", "10m", _counts("0 17+10x10", "0 10+10x10", "0 2x10")),
    quiet(
        "BridgeCountsDisagree", "two messages were abandoned", "10m",
        _counts("0 17+10x10", "0 10+10x10", "0x10")
        | {'bridge_abandoned_total{source="orders", reason="revoked", instance="a:8099"}': "0 2x10"},
    ),
    fires(
        "BridgeSpansDropped", "the receiver is away for an hour", "60m",
        {'bridge_spans_dropped_total{reason="buffer", instance="a:8099"}': "0+5x60"},
        "Spans are dropped: buffer", reason="buffer",
    ),
    quiet(
        "BridgeSpansDropped", "once", "60m",
        {'bridge_spans_dropped_total{reason="buffer", instance="a:8099"}': "0x5 5x55"},
    ),
    fires(
        "BridgeBug", "an attempt", "10m", {f"bridge_bugs_total{SOURCE}": "0x5 1x5"},
        "Unexpected failure in source orders", source="orders",
    ),
    fires(
        "BridgeBug", "the first operation of an engine", "10m",
        {'bridge_engine_faults_total{engine="default", kind="turn", instance="a:8099"}': "_x5 1x5"},
        "Unexpected failure in engine default", engine="default", kind="turn",
    ),
    quiet("BridgeBug", "an old one", "30m", {f"bridge_bugs_total{SOURCE}": "1x30"}),
    # -- sources
    fires(
        "BridgeSourceStuck", "stuck in one of two daemons", "5m",
        _state("source", "stuck", "0 1x5")
        | {'bridge_component_state{kind="source", name="orders", state="stuck", instance="b:8099"}': "0x6"},
        "Source orders is stuck", name="orders",
    ),
    quiet("BridgeSourceStuck", "a stuck worker is no stuck source", "5m", _state("worker", "stuck", "1x5")),
    quiet(
        "BridgeSourceStuck", "consuming", "5m",
        _state("source", "stuck", "0x5") | _state("source", "consuming", "1x5"),
    ),
    fires(
        "BridgeCandidateEnded", "ended", "5m", _state("candidate", "fallback", "0 1x5"),
        "The present rules decide again instead of candidate orders", name="orders",
    ),
    quiet("BridgeCandidateEnded", "active", "5m", _state("candidate", "active", "1x5")),
    fires(
        "BridgeSourceHeld", "held for ten minutes", "15m", _state("source", "held", "0 1x15"),
        "Source orders is held", name="orders",
    ),
    quiet("BridgeSourceHeld", "held for five minutes", "15m", _state("source", "held", "0x5 1x4 0x5")),
    fires(
        "BridgeSourcePaused", "forgotten", "70m", _state("source", "paused", "0 1x70"),
        "Source orders is paused", name="orders",
    ),
    quiet("BridgeSourcePaused", "for half an hour", "70m", _state("source", "paused", "0x10 1x30 0x30")),
    fires(
        "BridgeDeadLetterLimitReached", "probing", "5m", {f"bridge_probing{SOURCE}": "0 1x5"},
        "Source orders: too many dead letters", source="orders",
    ),
    quiet("BridgeDeadLetterLimitReached", "dead letters below the limit", "5m", {f"bridge_probing{SOURCE}": "0x5"}),
    fires(
        "BridgeNewDeadLetterCause", "the first one of all", "10m", _dead_letters("_x5 1x5"),
        "Source orders: dead letters with the reason decode_error", source="orders", reason="decode_error",
    ),
    fires(
        "BridgeNewDeadLetterCause", "again after three days", "3d10m", _dead_letters(f"2x{3 * DAY} 3x10"),
        "Source orders: dead letters with the reason decode_error", source="orders", reason="decode_error",
    ),
    fires(
        "BridgeNewDeadLetterCause", "a second reason", "2d10m",
        _dead_letters(f"0+1x{2 * DAY + 10}") | _dead_letters(f"_x{2 * DAY} 1x10", "no_match"),
        "Source orders: dead letters with the reason no_match", source="orders", reason="no_match",
    ),
    fires(
        "BridgeNewDeadLetterCause", "of a message that waited", "10m",
        _dead_letters("_x5 1x5", "early_expired", "bridge_late_dead_letters_total"),
        "Source orders: dead letters with the reason early_expired", source="orders", reason="early_expired",
    ),
    quiet("BridgeNewDeadLetterCause", "none since the start", "2d", _dead_letters(f"2x{2 * DAY}")),
    quiet(
        "BridgeNewDeadLetterCause", "the second one of a day, with a restart between them", "10h10m",
        _dead_letters(f"_x{HOUR} 1x{HOUR} _x{8 * HOUR} 1x10"),
    ),
    quiet(
        "BridgeNewDeadLetterCause", "in another daemon, too", "10h10m",
        _dead_letters(f"_x{HOUR} 1x{9 * HOUR + 10}") | _dead_letters(f"_x{10 * HOUR} 1x10", instance="b"),
    ),
    fires(
        "BridgeLagTooOld", "ten minutes old on one partition", "15m",
        {
            'bridge_oldest_unprocessed_seconds{source="orders", topic="t", partition="0", instance="a:8099"}': "600x15",
            'bridge_oldest_unprocessed_seconds{source="orders", topic="t", partition="1", instance="a:8099"}': "0x15",
        },
        "Source orders is 10m 0s behind", source="orders",
    ),
    quiet(
        "BridgeLagTooOld", "paused by a person", "15m",
        {'bridge_oldest_unprocessed_seconds{source="orders", topic="t", partition="0", instance="a:8099"}': "600x15"}
        | _state("source", "paused", "1x15"),
    ),
    quiet(
        "BridgeLagTooOld", "many, and fast", "15m",
        {
            'bridge_oldest_unprocessed_seconds{source="orders", topic="t", partition="0", instance="a:8099"}': "2x15",
            'bridge_lag{source="orders", topic="t", partition="0", instance="a:8099"}': "90000x15",
        },
    ),
    fires(
        "BridgeKeysQuarantined", "two keys", "20m", {f"bridge_quarantined_keys{SOURCE}": "0 2x20"},
        "Source orders: 2 keys are in quarantine", source="orders",
    ),
    quiet("BridgeKeysQuarantined", "released after a retry", "20m", {f"bridge_quarantined_keys{SOURCE}": "0 2x5 0x20"}),
    fires(
        "BridgeEarlyMessagesExpire", "three messages", "5m", {f"bridge_early_messages_expiring{ENGINE}": "0 3x5"},
        "Engine default: 3 early messages expire soon", engine="default",
    ),
    quiet(
        "BridgeEarlyMessagesExpire", "many wait, and have time", "5m",
        {f"bridge_early_messages{ENGINE}": "90x5", f"bridge_early_messages_expiring{ENGINE}": "0x5"},
    ),
    fires(
        "BridgeJobStopped", "two daemons count the same job", "10m",
        {f'bridge_jobs{{kind="replay", state="stopped", instance="{each}:8099"}}': "0 1x12" for each in "ab"},
        "Stopped jobs of the kind replay: 1", kind="replay",
    ),
    quiet(
        "BridgeJobStopped", "running and paused jobs, and a stopped one that is resumed", "10m",
        {
            'bridge_jobs{kind="replay", state="running", instance="a:8099"}': "3x12",
            'bridge_jobs{kind="replay", state="paused", instance="a:8099"}': "1x12",
            'bridge_jobs{kind="dlq.drop", state="stopped", instance="a:8099"}': "0 1x3 0x8",
        },
    ),
    # -- engines
    fires(
        "BridgeEngineAway", "one of two daemons does not reach it", "5m",
        {f"bridge_engine_up{ENGINE}": "1 0x5", f"bridge_engine_up{OTHER_ENGINE}": "1x6"},
        "Engine default does not answer", engine="default",
    ),
    quiet("BridgeEngineAway", "back within a minute", "5m", {f"bridge_engine_up{ENGINE}": "1 0 1x5"}),
    fires(
        "BridgeReloadRefused", "a broken file", "10m",
        {'bridge_config_last_reload_successful{instance="a:8099"}': "1x2 0x8"},
        "The daemon a:8099 refuses its changed configuration", instance="a:8099",
    ),
    quiet(
        "BridgeReloadRefused", "corrected soon", "10m",
        {'bridge_config_last_reload_successful{instance="a:8099"}': "1 0 0 1x8"},
    ),
    fires(
        "BridgeLifecycleTargetAway", "the receiver is away", "20m",
        {f"bridge_lifecycle_target_up{{instance=\"{it}:8099\"}}": up for it, up in (("a", "1x5 0x15"), ("b", "1x20"))},
        "The daemon a:8099 cannot publish lifecycle events", instance="a:8099",
    ),
    quiet(
        "BridgeLifecycleTargetAway", "away for a few minutes", "20m",
        {'bridge_lifecycle_target_up{instance="a:8099"}': "1x5 0x5 1x10"},
    ),
    fires(
        "BridgeLifecycleEventsDropped", "the receiver refuses one", "10m",
        {'bridge_lifecycle_events_dropped_total{reason="refused", instance="a:8099"}': "0x5 1x5"},
        "Lifecycle events are dropped: refused", reason="refused",
    ),
    quiet(
        "BridgeLifecycleEventsDropped", "long ago", "60m",
        {'bridge_lifecycle_events_dropped_total{reason="refused", instance="a:8099"}': "0x5 1x55"},
    ),
    fires(
        "BridgeEngineNotDurable", "in memory", "10m", {f"bridge_engine_durable{ENGINE}": "0x10"},
        "Engine default is not durable", engine="default",
    ),
    quiet("BridgeEngineNotDurable", "durable", "10m", {f"bridge_engine_durable{ENGINE}": "1x10"}),
    fires(
        "BridgeCompensationFailed", "the first one", "10m", _sagas("compensation_failed", "_x5 1x5"),
        "Saga checkout: a compensation failed", saga="checkout",
    ),
    fires(
        "BridgeCompensationFailed", "one more", "60m", _sagas("compensation_failed", "3x55 4x5"),
        "Saga checkout: a compensation failed", saga="checkout",
    ),
    quiet("BridgeCompensationFailed", "compensated", "10m", _sagas("compensated", "_x5 1x5")),
    quiet("BridgeCompensationFailed", "an old one", "60m", _sagas("compensation_failed", "3x60")),
    fires(
        "BridgeInstancesFail", "the first one", "10m", _ends("failed", "_x5 1x5"),
        "Instances of order_saga on engine default failed", engine="default", orchestration="order_saga",
    ),
    quiet("BridgeInstancesFail", "completed", "10m", _ends("completed", "0+1x10")),
    quiet("BridgeInstancesFail", "an old one", "60m", _ends("failed", "3x60")),
    fires(
        "BridgeCodeIncompatible", "the first one", "10m",
        {'bridge_incompatible_total{engine="default", orchestration="order_saga", instance="a:8099"}': "_x5 1x5"},
        "Instances of order_saga failed because their code was changed", engine="default", orchestration="order_saga",
    ),
    quiet(
        "BridgeCodeIncompatible", "an old one", "60m",
        {'bridge_incompatible_total{engine="default", orchestration="order_saga", instance="a:8099"}': "1x60"},
    ),
    fires(
        "BridgeUnknownNames", "a target", "10m",
        {'bridge_unknown_names_total{engine="default", kind="target", instance="a:8099"}': "_x5 1x5"},
        "Orchestrations on engine default use a name that is not registered (target)", engine="default", kind="target",
    ),
    quiet(
        "BridgeUnknownNames", "an old one", "60m",
        {'bridge_unknown_names_total{engine="default", kind="target", instance="a:8099"}': "2x60"},
    ),
    fires(
        "BridgePublishFails", "for 20 minutes", "20m",
        {'bridge_publish_failures_total{target="order-results", instance="a:8099"}': "0+1x20"},
        "Publishing to order-results fails", target="order-results",
    ),
    quiet(
        "BridgePublishFails", "once", "30m",
        {'bridge_publish_failures_total{target="order-results", instance="a:8099"}': "0x5 1x25"},
    ),
)  # fmt: skip


_BASE = "{{ with $externalLabels.runbooks }}{{ . }}{{ else }}docs/runbooks.md{{ end }}"


@pytest.fixture(scope="module")
def tool() -> Path:
    try:
        return promtool()
    except ToolMissing as missing:
        pytest.skip(f"{missing}: the alert rules did not run")


def _group(alert: str, directory: Path) -> Path:
    """Write a file with the group of an alert alone: the alert depends on no other, and promtool would evaluate all."""
    file = directory / "rules.yaml"
    file.write_text(json.dumps({"groups": [group for group in GROUPS if ALERTS[alert] in group["rules"]]}))
    return file


def _document(case: Case, directory: Path, runbooks: str | None = None) -> dict[str, Any]:
    """Test of promtool. runbooks: base of the runbooks, as the external label of Prometheus names it."""
    rule = ALERTS[case.alert]
    annotations = {name: text for name, text in rule["annotations"].items() if name != "summary"}
    annotations["runbook_url"] = annotations["runbook_url"].replace(_BASE, runbooks or "docs/runbooks.md")
    series = case.series if any(name.startswith("up{") for name in case.series) else case.series | UP
    return {
        "rule_files": [str(_group(case.alert, directory))],
        "evaluation_interval": _evaluated(case.at),
        "tests": [
            {
                "interval": "1m",
                **({} if runbooks is None else {"external_labels": {"runbooks": runbooks}}),
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": case.at,
                        "alertname": case.alert,
                        "exp_alerts": [
                            {
                                "exp_labels": labels | rule["labels"],
                                "exp_annotations": annotations | {"summary": summary},
                            }
                            for labels, summary in case.fires
                        ],
                    }
                ],
            }
        ],
    }


def _evaluated(at: str) -> str:
    """Interval of the evaluations until a time: promtool makes all of them, and an alert needs those of its `for`."""
    if at in ("26h", "3d2h"):
        return "30m"
    return "10m" if "d" in at else "5m" if re.match(r"\d\dh|7h", at) else "1m"


def _run(tool: Path, *arguments: str | Path) -> str:
    # Its garbage collection takes a quarter of the time otherwise
    seldom = {**os.environ, "GOGC": "off", "GOMEMLIMIT": "1GiB"}
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=120, check=False, env=seldom)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_case_fires_or_stays_quiet(tool: Path, tmp_path: Path) -> None:
    """One run of promtool, which names the file and the alert of each case that fails."""
    files = []
    for number, case in enumerate(CASES):
        directory = tmp_path / f"{number} {case.alert} {re.sub(r'[^a-z0-9]+', ' ', case.name.lower())}"
        directory.mkdir()
        files.append(directory / "case.yaml")
        files[-1].write_text(json.dumps(_document(case, directory)))
    assert _run(tool, "test", "rules", *files).count("SUCCESS") == len(CASES)


def test_a_link_leads_to_where_the_team_reads_the_runbooks(tool: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.fires)
    file = tmp_path / "case.yaml"
    file.write_text(json.dumps(_document(case, tmp_path, "https://wiki.example.com/bridge")))
    _run(tool, "test", "rules", file)


def test_a_wrong_expectation_fails(tool: Path, tmp_path: Path) -> None:
    for case in (CASES[0], CASES[-1]):
        document = _document(case, tmp_path)
        [expected] = document["tests"][0]["alert_rule_test"]
        alert = {"exp_labels": {"severity": "other"}, "exp_annotations": {}}
        expected["exp_alerts"] = [] if expected["exp_alerts"] else [alert]
        file = tmp_path / "case.yaml"
        file.write_text(json.dumps(document))
        with pytest.raises(AssertionError):
            _run(tool, "test", "rules", file)


def test_the_files_are_valid(tool: Path, tmp_path: Path) -> None:
    assert f"{_rules()} rules found" in _run(tool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    configuration = (RULES.parent / "prometheus.yaml").read_text().replace("/etc/prometheus", str(RULES.parent))
    (tmp_path / "prometheus.yaml").write_text(configuration)
    _run(tool, "check", "config", tmp_path / "prometheus.yaml")


def _rules() -> int:
    return sum(len(group["rules"]) for group in GROUPS)


def test_each_alert_has_a_case_of_each_kind() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


def test_each_alert_has_a_runbook() -> None:
    known = anchors("docs/runbooks.md")
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"{_BASE}#{name.lower()}"
        assert name.lower() in known
        assert rule["labels"]["severity"] in ("page", "ticket")
    text = (ROOT / "docs/runbooks.md").read_text()
    sections = dict(re.findall(r"^## (Bridge\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    for name, body in sections.items():
        for part in ("**Meaning.**", "**Look.**", "**Next.**"):
            assert part in body, f"{name}: {part}"
        assert "`bridge " in body or "```" in body, f"{name} names no command"
