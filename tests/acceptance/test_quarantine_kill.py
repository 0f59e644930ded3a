"""SIGKILL while keys are in quarantine and while they are released: no message is lost, doubled or overtaken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.channel import LocalChannel
from tests.acceptance.quarantine import nothing_is_lost_or_overtaken


@pytest.mark.timeout(180)
def test_killed_while_keys_are_held(tmp_path: Path) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        nothing_is_lost_or_overtaken(tmp_path, channel, kills=2, resumed=0)


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_killed_while_keys_go_on(tmp_path: Path) -> None:
    """After each kill, the claim of the dead daemon must expire first."""
    with LocalChannel(tmp_path / "broker") as channel:
        nothing_is_lost_or_overtaken(tmp_path, channel, kills=3, resumed=2)
