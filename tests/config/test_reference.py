"""docs/configuration.md is generated from the models and up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model_fields import fields, members
from bridge.config.reference import EXAMPLES, reference
from tests.config.conftest import Write, loaded

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_is_fresh() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), (
        "run: python -m bridge.config.reference > docs/configuration.md"
    )


def test_every_key_of_every_model_is_told() -> None:
    text = reference()
    waiting: list[object] = [BridgeConfig]
    seen: set[object] = set()
    while waiting:
        for kind in members(waiting.pop()):
            waiting += [part for part in getattr(kind, "__args__", ()) if part not in seen and part is not ...]
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
                seen.add(kind)
                waiting += fields(kind).values()
                mark = "- `{}`:" if kind is BridgeConfig else "| `{}` |"
                assert all(mark.format(key) in text for key in fields(kind)), kind
    assert len(seen) > 15


@pytest.mark.parametrize("command", ["reply", "cancel", "terminate", "suspend", "resume"])
def test_a_key_has_only_the_values_that_its_command_accepts(command: str) -> None:
    section = reference().split(f"### `{command}`\n")[1].split("\n### ")[0]
    assert "| `on_finished` | `dead_letter` or `ignore` | " in section


def test_the_examples_are_a_configuration(write: Write) -> None:
    found = loaded(write(EXAMPLES))
    assert found.warnings == ()
    assert set(found.config.engines) == {"default", "eu"}
