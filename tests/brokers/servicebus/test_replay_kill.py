"""SIGKILL on Service Bus with sessions while dead letters are replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.replays import Load, replayed_while_killed
from tests.brokers.servicebus.channel import bus_channel

pytestmark = pytest.mark.long


@pytest.mark.timeout(300)
def test_killed_while_dead_letters_are_replayed(tmp_path: Path) -> None:
    with bus_channel() as channel:
        replayed_while_killed(tmp_path, channel, Load(8, 12, 7, 1), kills=2, rate=25)
