"""Story of one order."""

from __future__ import annotations

import html
import io
import re
from typing import Any

from rich.console import Console

from demo import story
from tests.docs.document import ROOT


def order(reason: str, steps: list[str], name: str = "fulfil_order") -> dict[str, Any]:
    return {
        "instance_id": "order-o-1",
        "name": name,
        "input": {"id": "o-1", "total": 25.5, "lines": [{"sku": "tea", "quantity": 2}]},
        "output": {"status": "compensated", "reason": reason, "completed": steps, "compensated": ["stock"]},
    }


def test_the_order_that_came_farthest_is_chosen() -> None:
    far = order("shipment_lost", ["stock", "payment"])
    failed = order("shipment_lost", ["stock", "payment", "shipment"])
    failed["output"] |= {"status": "compensation_failed"}
    others = [
        order("shipment_lost", ["stock"]),
        failed,
        order("cancelled", ["stock", "payment", "shipment"]),
        order("shipment_lost", ["a", "b", "c"], name="approval"),
        order("shipment_lost", []) | {"output": None},
    ]
    assert story.choose([*others, far]) is far
    assert story.choose(others[1:]) is None


def test_steps_failure_and_compensations_are_in_order() -> None:
    found = list(story.lines(order("shipment_lost", ["stock", "payment"])))
    assert [(mark, step) for mark, step, _ in found] == [
        ("", "order.created"), ("✓", "stock"), ("✓", "payment"), ("✗", "shipment lost"),
        ("↩", "stock"), ("", "order.compensated"),
    ]  # fmt: skip
    assert all(why for _, _, why in found)


def test_every_explained_step_is_one_of_the_sample_saga() -> None:
    code = (ROOT / "workflows" / "order.py").read_text()
    explained = (*story._DONE, *story._FAILED, *story._UNDONE)
    assert [step for step in explained if f'"{step}"' not in code] == []


def test_without_a_terminal_nothing_waits() -> None:
    console = Console(file=io.StringIO(), width=200)
    story.tell(order("shipment_lost", ["stock"]), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "o-1, 2 tea, 25.50 EUR" in text
    assert "✗ shipment lost" in text


def test_the_picture_of_the_readme_shows_the_story_of_today() -> None:
    drawn = (ROOT / "docs" / "demo.svg").read_text()
    shown = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", drawn)))
    for step, why in (*story._DONE.items(), *story._FAILED.items(), *story._UNDONE.items()):
        assert step.replace("_", " ") in shown, "run: make docs/demo.svg"
        assert why in shown, "run: make docs/demo.svg"
