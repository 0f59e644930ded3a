"""Suppression of warnings by comments and by the section `check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.check.configuration import check
from bridge.config.source import load
from bridge.config.yaml.scalars import comments, suppressions_in

CONFIG = """\
engine: {type: embedded}
workflows: {external: [report]}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes:
  - name: report
    from: orders
    schedule:
      orchestration: report
      instance_id: nightly
"""


def codes(tmp_path: Path, text: str) -> list[tuple[int, str, str]]:
    file = tmp_path / "bridge.yaml"
    file.write_text(text)
    return [(problem.line, problem.code, problem.what) for problem in check([file]).problems]


def commented(comment: str) -> str:
    return CONFIG.replace("nightly\n", f"nightly   {comment}\n")


def test_a_comment_on_the_line(tmp_path: Path) -> None:
    assert [code for _, code, _ in codes(tmp_path, CONFIG)] == ["R005"]
    assert codes(tmp_path, commented("# bridge: ignore[R005] one at a time")) == []
    assert codes(tmp_path, commented("# see below. bridge: ignore[R005] is no suppression"))[0][1] == "R005"


def test_a_comment_above(tmp_path: Path) -> None:
    above = CONFIG.replace(
        "      instance_id", "      # bridge: ignore[R005, R007] -- one at a time\n      instance_id"
    )
    assert codes(tmp_path, above) == []


@pytest.mark.parametrize(
    ("comment", "what"),
    [
        ("# bridge: ignore[R005]", "the suppression has no reason"),
        ("# bridge: ignore", "the suppression names no rule"),
        ("# bridge: ignore[R999] why", "there is no rule R999"),
        ("# bridge: ignore[R001] why", "R001 is an error, and cannot be suppressed"),
        ("# bridge: ignore[C030] why", "C030 cannot be suppressed"),
        ("# bridge: ignore[R010] why", "there is no finding here; remove it"),
    ],
)
def test_suppressions_that_are_not_valid(tmp_path: Path, comment: str, what: str) -> None:
    found = codes(tmp_path, commented(comment))
    assert [(line, code) for line, code, _ in found] == [(10, "C030"), (10, "R005")]
    assert what in found[0][2]


def test_a_suppression_of_a_check_that_did_not_run_is_not_called_unused(tmp_path: Path) -> None:
    comment = "# bridge: ignore[R005] one at a time"
    text = commented(comment).replace("- name: report", "- name: report   # bridge: ignore[R024] no sample yet")
    assert codes(tmp_path, text) == []
    wrong = text.replace("no_match: ignore", "no_match: ignored").replace("[R005]", "[R005,R010]")
    assert [code for _, code, _ in codes(tmp_path, wrong)] == ["C005"]


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        ("{code: R005, reason: why}", []),
        ("{code: R005, at: routes.report, reason: why}", []),
        ("{code: R005, at: routes.report.schedule.instance_id, reason: why}", []),
        ("{code: R005, at: routes.rep, reason: why}", ["C030", "R005"]),
        ("{code: R007, reason: why}", ["C030", "R005"]),
        ("{code: R999, reason: why}", ["C030", "R005"]),
        ("{code: R001, reason: why}", ["C030", "R005"]),
        ("{code: R005}", ["C004"]),
        ("{code: R005, reason: ''}", ["C005"]),
    ],
)
def test_the_section_check(tmp_path: Path, entry: str, left: list[str]) -> None:
    found = codes(tmp_path, f"{CONFIG}check:\n  ignore:\n    - {entry}\n")
    assert sorted(code for _, code, _ in found) == left


def test_suppressions_of_several_files_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{CONFIG}check: {{ignore: [{{code: R005, reason: why}}]}}\n")
    more = "routes: [{name: all, from: orders, ignore: {}}]\ncheck: {ignore: [{code: R016, reason: why}]}\n"
    (tmp_path / "b.yaml").write_text(more)
    assert check([tmp_path]).problems == ()


def test_suppressions_do_not_change_the_version(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(CONFIG)
    before = load([file]).version
    file.write_text(f"{commented('# bridge: ignore[R005] x')}check: {{ignore: [{{code: R005, reason: why}}]}}\n")
    assert load([file]).version == before


def test_comments_are_not_text() -> None:
    text = """\
a: "x # one"   # two
b: 'it''s # one' # three
c: x#one
d: |   # four
  # one
  text
e: [x, # five
  y]
# six
f: >-
  folded # one

# seven
g: plain
  over lines # eight
"""
    assert [comment for _, comment in comments(text)] == [
        "# two", "# three", "# four", "# five", "# six", "# seven", "# eight",
    ]  # fmt: skip


def test_lines_of_suppressions() -> None:
    text = "é: 1 # bridge: ignore[R001] a\r\n# bridge: ignore[R002] b\r\nx: 2\r\n"
    assert [(each.line, each.applies_to, each.rules, each.reason) for each in suppressions_in(text)] == [
        (1, 1, ("R001",), "a"), (2, 3, ("R002",), "b"),
    ]  # fmt: skip
