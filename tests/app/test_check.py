"""All problems of a configuration at once, each with its place."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bridge.app.check.configuration import Report, check
from tests.app.project import CONFIG, write_project


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_project(tmp_path / "checked")


def found(report: Report, severity: str = "error") -> list[tuple[int, str, str]]:
    return [
        (problem.line, problem.path, problem.what.splitlines()[0])
        for problem in report.problems
        if problem.severity == severity
    ]


def line_of(config: Path, text: str) -> int:
    return next(number for number, line in enumerate(config.read_text().splitlines(), 1) if text in line)


def test_a_sound_configuration(config: Path) -> None:
    report = check([config])
    assert (report.problems, report.errors, report.warnings) == ((), 0, 0)
    assert report.counts == {
        "source": 2, "route": 3, "target": 0, "orchestration": 9, "activity": 2, "entity": 2,
    }  # fmt: skip


def test_problems_of_every_kind_are_found_together(config: Path) -> None:
    config.write_text(
        CONFIG.replace("orchestration: greet,", "orchestration: great,")
        .replace("payload.name != ''", "payload.name =! ''")
        .replace('type: "payload.kind"', 'type: "payload.("')
        + """
  - name: late
    from: orders
    match: {type: go}
    signal_entity: {entity: kounter, key: "{{ payload.id }}", operation: add}
  - name: mapped
    from: plain
    match: {type: map}
    map: commanded_flows:nothing
    start_or_raise: {orchestration: other, instance_id: "{{ payload.id }}", event: go}
"""
    )
    report = check([config])
    errors = {path: (line, what) for line, path, what in found(report)}
    assert errors.keys() == {
        "routes[0].schedule.orchestration", "routes[0].when", "sources.plain.attributes.type",
        "routes[3].signal_entity.entity", "routes[4].map", "routes[4].start_or_raise.orchestration",
    }  # fmt: skip
    assert all(line > 0 for line, _ in errors.values())
    assert "did you mean `greet`?" in errors["routes[0].schedule.orchestration"][1]
    assert "did you mean `counter`?" in errors["routes[3].signal_entity.entity"][1]
    assert "workflows.external" in errors["routes[4].start_or_raise.orchestration"][1]
    warnings = {path for _, path, _ in found(report, "warning")}
    assert warnings == {"routes[3]", "routes[4].start_or_raise.instance_id"}
    lines = [problem.line for problem in report.problems]
    assert lines == sorted(lines)


def test_an_activity_is_no_orchestration(config: Path) -> None:
    config.write_text(CONFIG.replace("orchestration: greet,", "orchestration: say,"))
    [(_, path, what)] = found(check([config]))
    assert path == "routes[0].schedule.orchestration"
    assert "`say` is an activity" in what
    assert "OrchestrationContext" in what


def test_compile_errors_point_at_the_place(config: Path) -> None:
    config.write_text(CONFIG.replace("payload.name != ''", "payload.name =! ''"))
    [problem] = check([config]).problems
    assert problem.line == line_of(config, "=!")
    assert problem.what.splitlines()[-1].strip() == "^"


def test_a_rule_of_two_sources_is_reported_once(config: Path) -> None:
    config.write_text(CONFIG.replace("waits-{{ payload.id }}", "waits-{{ payload. }}"))
    assert len(check([config]).problems) == 1


def test_what_does_not_even_load(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text("sources: 5\nbrokers: {local: {type: lokal}}\nsurprise: 1\n")
    report = check([tmp_path / "bridge.yaml"])
    assert report.errors >= 3
    assert report.counts == {}


def test_what_does_not_load_hides_nothing_of_the_rest(config: Path) -> None:
    config.write_text(
        CONFIG.replace("orchestration: greet,", "orchestration: great,")
        .replace("payload.name != ''", "payload.name =! ''")
        .replace("waits-{{ payload.id }}", "{{ payload.id }}")
        .replace("codec: json", "codec: jsn")
        + "surprise: 1\n"
    )
    report = check([config])
    assert {path for _, path, _ in found(report)} == {
        "surprise", "sources.plain.codec", "routes[0].when", "routes[0].schedule.orchestration",
    }  # fmt: skip
    [(_, path, what)] = found(report, "warning")
    assert path.endswith(".instance_id")
    assert "no constant prefix" in what


def test_a_doubt_about_what_does_not_load_is_not_reported(config: Path) -> None:
    late = """
  - name: late
    from: plain
    match: {type: late}
    raise_event: {instance_id: "greet-{{ payload.name }}", name: late, on_missing: {wait: 1}}
"""
    config.write_text(CONFIG + late)
    assert [(path, what) for _, path, what in found(check([config]), "warning")] == []
    config.write_text(CONFIG + late.replace(", on_missing: {wait: 1}", ""))
    assert [path for _, path, _ in found(check([config]), "warning")] == ["routes[3].raise_event"]


def test_a_broken_schema_hides_no_rule(config: Path) -> None:
    config.with_name("none.json").write_text('{"type": "nonsense"}')
    config.write_text(
        CONFIG.replace("payload.name != ''", "payload.name =! ''")
        + """
  - {name: checked, from: orders, match: {type: x}, schema: none.json, ignore: {}}
"""
    )
    assert {path for _, path, _ in found(check([config]))} == {"routes[0].when", "routes[3].schema"}


def test_what_is_wrong_with_an_entry_is_placed_there_and_not_at_the_defaults(config: Path) -> None:
    config.write_text(
        CONFIG
        + """
  - {name: all, from: plain, ignore: {}}
  - {name: never, from: plain, ignore: {}}
defaults: {route: {engine: default}}
"""
    )
    assert [(line, path) for line, path, what in found(check([config]), "warning") if "never reached" in what] == [
        (line_of(config, "name: never"), "routes[4]")
    ]


def test_no_import_runs_no_code_of_the_project(config: Path) -> None:
    flows = config.with_name("commanded_flows.py")
    config.write_text(
        CONFIG.replace("commanded_flows", "untrusted_flows").replace("orchestration: greet,", "orchestration: great,")
        + """
  - name: mapped
    from: plain
    match: {type: map}
    map: untrusted_flows:nothing
    ignore: {}
"""
    )
    (flows.with_name("untrusted_flows.py")).write_text(f"open({str(config.with_name('ran'))!r}, 'w')\n1 / 0\n")
    report = check([config], imports=False)
    assert found(report) == []
    assert not config.with_name("ran").exists()
    assert "untrusted_flows" not in sys.modules
    assert "orchestration" not in report.counts


def test_modules_that_cannot_be_imported(config: Path) -> None:
    config.write_text(CONFIG.replace("[commanded_flows]", "[commanded_flows, missing_flows]"))
    [(line, path, what)] = found(check([config]))
    assert (line, path) == (line_of(config, "missing_flows"), "workflows.modules[1]")
    assert "missing_flows" in what


def test_orchestrations_of_other_workers_are_known_by_name(config: Path) -> None:
    config.write_text(CONFIG.replace("orchestration: greet,", "orchestration: elsewhere,"))
    assert check([config]).errors == 1
    config.write_text(
        config.read_text().replace(
            "workflows: [commanded_flows]", "workflows: {modules: [commanded_flows], external: [elsewhere]}"
        )
    )
    assert check([config]).problems == ()


def test_overlays_are_checked_with_the_rest(config: Path) -> None:
    overlay = config.with_name("prod.yaml")
    overlay.write_text("routes:\n  - name: greet\n    when: 'payload.name =! 1'\n")
    [problem] = check([config], [overlay]).problems
    assert (Path(problem.file).name, problem.line) == ("prod.yaml", 3)


def test_nothing_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [problem] = check([]).problems
    assert "bridge.yaml" in problem.what
    assert "bridge init" in problem.what


def test_endpoints_that_are_none(config: Path) -> None:
    config.write_text(
        CONFIG.replace("{type: embedded, path: .bridge/engine}", "{type: scheduler, endpoint: 'ftp://x'}")
    )
    [(line, path, what)] = found(check([config]))
    assert (line, path) == (2, "engines.default.endpoint")
    assert "'ftp://x' is not an endpoint" in what


def test_costly_expressions_of_sources_are_warned_of(config: Path) -> None:
    costly = "payload.a.replace('x', payload.b)"
    config.write_text(
        CONFIG.replace(
            "sources:\n",
            f"sources:\n  dear: {{broker: local, topics: [dear], codec: json, no_match: ignore, "
            f'identity: "{{{{ {costly} }}}}", ordering: "{{{{ {costly} }}}}", '
            f'attributes: {{type: "{costly}"}}}}\n',
            1,
        )
    )
    for imports in (True, False):
        paths = [
            path for _, path, what in found(check([config], imports=imports), "warning") if "expression_cost" in what
        ]
        assert set(paths) == {f"sources.dear.{name}" for name in ("identity", "ordering", "attributes.type")}


def test_a_thousand_rules_are_checked_quickly(config: Path) -> None:
    rules = "".join(
        f"""
  - name: rule-{number}
    from: orders
    match: {{type: go.t{number}, payload.kind: [web, shop]}}
    when: payload.total > 5.0 && payload.country == 'c{number}' && payload.total < {number + 10}.5
    schedule: {{orchestration: greet, instance_id: "rule{number}-{{{{ payload.id }}}}", input: "{{'n': {number}}}"}}
"""
        for number in range(1000)
    )
    config.write_text(CONFIG + rules)
    before = time.process_time()
    assert check([config]).problems == ()
    assert time.process_time() - before < 8  # a second on an idle machine; a check of all pairs takes minutes
