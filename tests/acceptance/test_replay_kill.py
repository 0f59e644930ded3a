"""SIGKILL while dead letters are replayed: none is lost, doubled or overtaken, and newcomers are untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.channel import LocalChannel
from tests.acceptance.replays import replayed_while_killed


@pytest.mark.timeout(240)
def test_killed_while_dead_letters_are_replayed(tmp_path: Path) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        replayed_while_killed(tmp_path, channel, kills=2)


@pytest.mark.prove
@pytest.mark.timeout(400)
def test_killed_five_times_while_dead_letters_are_replayed(tmp_path: Path) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        replayed_while_killed(tmp_path, channel, kills=5, rate=10)
