"""A large file is read once after the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.sqlite_engine.storage import query as index_warmup
from bridge.sqlite_engine.storage.query import IndexWarmup
from tests.kit.protocol_client import start
from tests.sqlite_engine.conftest import Restartable


def test_every_id_is_read_in_steps(restartable: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        start(restartable.now, "work", f"w-{number}")
    monkeypatch.setattr(index_warmup, "STEP", 3)
    warm = IndexWarmup(restartable.path, "hub")
    warm.start()
    warm._thread.join()
    assert warm.read == 10
    warm.stop()


def test_what_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"no database" * 1000)
    warm = IndexWarmup(tmp_path / "hub.db", "hub")
    warm.start()
    warm._thread.join()
    assert warm.read == 0
    IndexWarmup(tmp_path / "hub.db", "hub").stop()
