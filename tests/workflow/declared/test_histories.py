"""Instances of earlier versions continue unchanged: their histories are replayed, and every action is compared.

A recording is never renewed: a change of the decisions of running sagas needs a new FORMAT of the definition.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.testing import replay
from bridge.workflow.declared import declared_saga

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_what_an_earlier_version_decided_is_decided_again(path: Path) -> None:
    replay(path, {"bridge.saga": declared_saga})


def test_there_are_some() -> None:
    assert {path.stem for path in HISTORIES} == {"completed", "compensated"}
