"""promtool, the checker of Prometheus."""

from __future__ import annotations

from pathlib import Path

from tests.kit.go_tools import tool

_PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"
_TAGS = "remove_all_sd"
"""The rules need no service discovery: without its clients of clouds the build takes half the time."""


def promtool() -> Path:
    """Return the path of promtool. Raises: ToolMissing."""
    return tool(Path(__file__).parent / "promtool", _PACKAGE, tags=_TAGS)
