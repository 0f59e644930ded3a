"""SIGKILL on Service Bus with sessions, with every correlating command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.correlation import every_message_takes_effect_once
from tests.brokers.servicebus.channel import bus_channel

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]


def test_every_message_takes_effect_once(tmp_path: Path) -> None:
    with bus_channel() as channel:
        every_message_takes_effect_once(tmp_path, channel, keys=24, kills=5)
