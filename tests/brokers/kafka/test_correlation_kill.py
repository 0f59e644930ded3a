"""SIGKILL on Kafka with every correlating command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.correlation import every_message_takes_effect_once
from tests.brokers.kafka.channel import KafkaChannel

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]


def test_every_message_takes_effect_once(tmp_path: Path, bootstrap: str) -> None:
    every_message_takes_effect_once(tmp_path, KafkaChannel(bootstrap), keys=24, kills=4)
