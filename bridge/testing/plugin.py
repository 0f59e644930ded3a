"""Plugin for pytest with the fixture `bridge`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bridge.testing.local_bridge import LocalBridge


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("bridge-config", "Configuration of the fixture `bridge`, relative to the ini file.", "paths")


@pytest.fixture
def bridge(request: pytest.FixtureRequest) -> Iterator[LocalBridge]:
    """A running bridge for one test, with virtual time.

    The ini option `bridge-config` names its configuration. The default is bridge.yaml or config/bridge.yaml in the
    root directory.
    """
    from bridge.testing.local_bridge import LocalBridge  # on demand only, because pytest always loads this file

    root = request.config.rootpath
    named = request.config.getini("bridge-config")
    paths: list[Path] = [Path(path) for path in named]
    if not paths:
        paths = [path for path in (root / "bridge.yaml", root / "config" / "bridge.yaml") if path.exists()][:1]
    if not paths:
        raise pytest.UsageError(f"found no bridge.yaml in {root}; set the ini option bridge-config")
    with LocalBridge(paths) as running:
        yield running
