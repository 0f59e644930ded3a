"""Pauses of sources in the daemon whose worker processes them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bridge.app.serve.decisions import pauses
from bridge.engines.entities.source_entities import Pause, SourcePauses
from tests.kit.daemon import ENGINES, running

CONFIG = """
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: ignore}}
routes: []
"""
FLOWS = """
def ends(ctx, _):
    return None
"""


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_daemon_that_processes_a_pause_applies_it_at_once(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "READ_SECONDS", 3600.0)
    async with running(tmp_path, CONFIG, FLOWS, engine) as it:
        stored, [source] = SourcePauses(it.daemon.engines["default"]), it.daemon.sources
        await stored.pause("orders", Pause(time.time(), "ada", "a test"))
        await it.until(lambda: source.paused is not None, "the source is paused")
        await stored.resume("orders")
        await it.until(lambda: source.paused is None, "the source is resumed")
