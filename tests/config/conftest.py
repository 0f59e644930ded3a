"""Fixtures that write configurations into a directory and load them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.config.source import Loaded, load
from bridge.core.errors import ConfigError, Problem

MINIMAL = """\
engine: {type: embedded}
brokers:
  local: {type: local}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter}
routes:
  - name: start
    from: orders
    schedule: {orchestration: saga, instance_id: "order-{{ payload.id }}"}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "bridge.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def loaded(*paths: Path, overlays: tuple[Path, ...] = (), **environ: str) -> Loaded:
    return load(paths, overlays, environ=environ)


def problems(*paths: Path, overlays: tuple[Path, ...] = (), **environ: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(paths, overlays, environ=environ)
    return list(caught.value.problems)
