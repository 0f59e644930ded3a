"""SIGKILL while dead letters are replayed: none is lost, doubled or overtaken, and newcomers are untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.channel import LocalChannel
from tests.acceptance.replays import Load, replayed_while_killed


@pytest.mark.timeout(240)
def test_killed_while_dead_letters_are_replayed(tmp_path: Path) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        replayed_while_killed(tmp_path, channel, Load(8, 12, 7, 1), kills=3, rate=25)
