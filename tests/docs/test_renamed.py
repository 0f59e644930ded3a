"""Renamed words of the changelog: an old key or command names its successor, and no page uses an old word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import root
from bridge.config.source import load
from bridge.core.errors import ConfigError
from bridge.core.provenance import current_reason
from bridge.core.states import STATES
from tests.docs.document import DOCUMENTS, ROOT, read, table

CODE = re.compile(r"`([^`]+)`")
PAGES = [document for document in DOCUMENTS if document != "CHANGELOG.md"]
CONFIG = """\
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: paid, from: orders, raise_event: {instance_id: one, name: paid}}]
"""
WRITTEN = {
    "park": ("name: paid}", "name: paid, on_missing: {park: 1h}}"),
    "parking": ("embedded", "embedded, parking: {}"),
}
"""Uses of the old keys, as replacements in the configuration."""


def words(cell: str) -> list[str]:
    """Return the words of a cell; a cell that is one word comes without backticks."""
    return CODE.findall(cell) or [cell]


def rows(*kinds: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the old and the new words of these kinds."""
    found = [(words(row[1])[0], tuple(words(row[2]))) for row in table("CHANGELOG.md", "Kind") if row[0] in kinds]
    assert found or kinds == ("command",)
    return found


@pytest.mark.parametrize(("old", "new"), rows("key"))
def test_an_old_key_is_an_error_that_names_the_new_one(tmp_path: Path, old: str, new: tuple[str, ...]) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG.replace(*WRITTEN[old]))
    with pytest.raises(ConfigError) as caught:
        load([path])
    [problem] = caught.value.problems
    assert problem.what == f"`{old}` is now `{new[0]}`"
    line = path.read_text().splitlines()[problem.line - 1]
    assert line[problem.column - 1 :].startswith(f"{old}:")
    shown = CliRunner().invoke(root, ["check", "-c", str(path)])
    assert shown.exit_code
    assert problem.what in shown.output


def test_an_old_command_names_the_new_ones() -> None:
    for old, new in rows("command"):
        shown = CliRunner().invoke(root, old.split()[1:])
        assert shown.exit_code == 2
        assert all(each in shown.output for each in new)


@pytest.mark.parametrize(("old", "new"), rows("reason"))
def test_an_old_reason_is_shown_as_the_new_one(old: str, new: tuple[str, ...]) -> None:
    assert current_reason(old) == current_reason(new[0]) == new[0]


def test_outcomes_states_and_metrics_have_the_new_words_alone() -> None:
    inventory = json.loads((ROOT / "tests/wire/inventory.json").read_text())["users"]
    metrics = {re.match(r"\w+", line)[0] for line in inventory["metrics"]}
    for old, (new, *_) in rows("metric"):
        assert old not in metrics
        assert any(name.startswith(new) for name in metrics), new
    known = {state.value for states in STATES.values() for state in states}
    for old, words in rows("outcome", "state"):
        assert old not in known
        assert set(words) <= known | {"--json"}


COMMON = {"free", "waiting", "held", "limited", "dead_letter"}
"""Old words that pages use with another meaning."""


def test_no_page_uses_an_old_word() -> None:
    old = {words(row[1])[0] for row in table("CHANGELOG.md", "Kind")} - COMMON
    for page in PAGES:
        text = read(page)
        for word in old:
            assert f"`{word}`" not in text, f"{page}: {word}"
            assert not re.search(rf"\b{word}: ", text), f"{page}: {word}"
