"""The table of docs/guarantees.md equals the recorded results, has every kill, and shows only zeros for the bridge."""

from __future__ import annotations

import json

import pytest

from tests.prove.kills import KILLS
from tests.prove.score import Score, score
from tests.prove.table import DOCUMENT, ROOT, load, record, rendered, rendered_attacks, rewritten

NUMBERS = {"sent", "lost", "doubled", "out_of_order"}


def test_the_document_shows_what_was_recorded() -> None:
    text = DOCUMENT.read_text()
    assert rewritten(text, load()) == text, "run `make prove`, or `python -m tests.prove`"


def test_every_kill_was_tried_on_both_and_left_the_bridge_unharmed() -> None:
    results = load()
    assert list(results["kills"]) == [kill.name for kill in KILLS]
    for name, variants in results["kills"].items():
        assert set(variants) == {"bridge", "hand-written"}
        assert all(set(numbers) == NUMBERS for numbers in variants.values())
        bridge, hand_written = variants["bridge"], variants["hand-written"]
        assert bridge["sent"] == hand_written["sent"] >= 20, f"{name}: the same load"
        assert (bridge["lost"], bridge["doubled"], bridge["out_of_order"]) == (0, 0, 0), name
    assert any(variants["hand-written"]["doubled"] for variants in results["kills"].values()), (
        "it is a test that can fail"
    )


def test_every_row_names_a_promise_and_a_test_that_exist() -> None:
    text = DOCUMENT.read_text()
    for kill in KILLS:
        assert f"\n## {kill.promise}. " in text
        assert (ROOT / kill.test).exists()


def test_the_loop_is_as_long_as_the_document_says() -> None:
    for name in ("hand_written", "hand_written_servicebus"):
        lines = (ROOT / f"tests/prove/{name}.py").read_text().splitlines()
        code = [line for line in lines if line.strip()]
        assert 45 <= len(code) <= 75, name


def test_a_row() -> None:
    scores = {kill.name: {"bridge": Score(10), "hand-written": Score(10, 1, 2, 3)} for kill in KILLS}
    results = json.loads(json.dumps(record("Kafka", scores)))
    assert rendered(results).splitlines()[2].endswith("| 10 | 0 | 0 | 0 | 1 | 2 | 3 |")


def test_a_row_of_an_attack() -> None:
    figures = {
        "seconds": 60.0, "sent": 2400, "lost": 0, "doubled": 0, "own p99": 0.2, "shared p99": 1.25, "catch up": 0.4,
        "above idle MiB": 300, "healthz": 0.31,
    }  # fmt: skip
    row = rendered_attacks({"hostile": {"local": figures}}).splitlines()[2]
    assert row == "| local | 2 x 60 s | 2400 | 0 | 0 | 0.20 s | 1.25 s | 0.4 s | 300 MiB | 0.31 s |"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([0, 1, 2, 3], Score(4)),
        ([0, 1, 1, 2, 3, 3, 3], Score(4, doubled=3)),
        ([0, 2, 3], Score(4, lost=1)),
        ([0, 2, 1, 3], Score(4, out_of_order=1)),
        ([0, 1, 2, 1, 3], Score(4, doubled=1)),
        ([], Score(4, lost=4)),
        ([3, 0, 1, 2], Score(4, out_of_order=3)),
    ],
)
def test_how_it_is_counted(seen: list[int], expected: Score) -> None:
    assert score({"k": 4}, {"k": seen}) == expected
    assert score({"k": 4, "j": 1}, {"k": seen, "j": [0]}) == expected + Score(1)
