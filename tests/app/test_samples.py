"""Rules that sample messages reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.app.check.configuration import Report, check
from bridge.core.errors import DecodeError

CONFIG = """\
engine: {type: embedded}
workflows: {external: [x]}
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders, more], no_match: dead_letter}
  plain: {broker: local, topics: [plain-topic], codec: json, attributes: {type: payload.kind}, no_match: ignore}
routes:
  - {name: large, from: orders, match: {type: a}, when: payload.total > 5, ignore: {}}
  - {name: small, from: orders, match: {type: a}, ignore: {}}
  - name: other
    from: [orders, plain]
    match: {type: b}
    schedule: {orchestration: x, instance_id: "x-{{ payload.id }}"}
"""


def event(type_: str, **data: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": type_, "data": data}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "samples").mkdir()
    return tmp_path


def lines(file: Path, *values: object) -> None:
    file.write_text("".join(f"{json.dumps(value)}\n" for value in values) + "\n")


def unreached(project: Path, *samples: Path) -> tuple[list[str], Report]:
    report = check([project / "bridge.yaml"], samples=samples or (project / "samples",))
    assert {problem.code for problem in report.problems} <= {"R024"}
    return [problem.path for problem in report.problems], report


def test_lines_of_every_form(project: Path) -> None:
    file = project / "samples" / "all.jsonl"
    read = {"topic": "more", "partition": 0, "offset": 5, "timestamp": None, "key": None, "headers": {}}
    large, small = {"topic": "orders", "body": event("a", total=9)}, {**read, "body": event("a", total=1)}
    lines(file, large, small, event("b", id="1"))
    paths, report = unreached(project)
    assert paths == []
    assert report.counts["sample"] == 4  # the last one is tried on both sources
    assert report.counts["dead-lettered sample"] == 0


def test_rules_that_no_sample_reaches(project: Path) -> None:
    lines(project / "samples" / "orders.jsonl", event("a", total=1))
    paths, report = unreached(project)
    assert paths == ["routes[0]", "routes[2]"]
    assert "none of the 1 samples of orders reaches this rule" in report.problems[0].what


def test_files_named_after_a_source_or_topic(project: Path) -> None:
    (project / "samples" / "plain-topic.json").write_text('{"kind": "b", "id": "7"}')
    lines(project / "samples" / "orders.jsonl", event("a", total=1), event("a", total=10))
    paths, report = unreached(project)
    assert paths == []
    assert report.counts["sample"] == 3


def test_a_rule_whose_command_fails_is_reached(project: Path) -> None:
    lines(project / "samples" / "orders.jsonl", event("a", total="x"), event("a", total=1), event("b"))
    paths, report = unreached(project)
    assert paths == ["routes[0]"]
    assert report.counts["dead-lettered sample"] == 2


def test_no_sample_of_a_source(project: Path) -> None:
    (project / "samples" / "plain.json").write_text('{"kind": "c"}')
    _, report = unreached(project)
    assert [problem.what.partition(";")[0] for problem in report.problems[:2]] == ["there is no sample of orders"] * 2


def test_samples_that_cannot_be_read(project: Path) -> None:
    with pytest.raises(DecodeError, match="the directory has no file"):
        unreached(project)
    (project / "samples" / "a.jsonl").write_text('{"topic": "orders", "body": {}}\nnot json\n')
    with pytest.raises(DecodeError, match=r"a\.jsonl:2: "):
        unreached(project)
    with pytest.raises(FileNotFoundError):
        unreached(project, project / "none.jsonl")


def test_a_broken_configuration_reports_its_problems_only(project: Path) -> None:
    (project / "bridge.yaml").write_text(CONFIG.replace("payload.total > 5", "payload.total >"))
    lines(project / "samples" / "orders.jsonl", event("a", total=1))
    report = check([project / "bridge.yaml"], samples=[project / "samples"])
    assert [problem.code for problem in report.problems] == ["R001"]
