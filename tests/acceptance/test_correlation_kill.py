"""SIGKILL on the local broker with every correlating command: one effect per message, in order, no dead letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.channel import LocalChannel
from tests.acceptance.correlation import every_message_takes_effect_once


@pytest.mark.timeout(180)
@pytest.mark.parametrize("apart", [False, True], ids=["one process", "intake and worker apart"])
def test_every_message_takes_effect_once(tmp_path: Path, apart: bool) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        every_message_takes_effect_once(tmp_path, channel, keys=24, kills=5, apart=apart)
