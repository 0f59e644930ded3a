"""SIGKILL on Service Bus with sessions while keys are in quarantine and while they are released."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.quarantine import nothing_is_lost_or_overtaken
from tests.brokers.servicebus.channel import bus_channel

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]


def test_killed_while_keys_are_held_and_go_on(tmp_path: Path) -> None:
    with bus_channel() as channel:
        nothing_is_lost_or_overtaken(tmp_path, channel, kills=2, resumed=1)
