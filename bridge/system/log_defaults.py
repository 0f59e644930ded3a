"""Settings of the log, for processes that do not read the models of the configuration."""

from __future__ import annotations

from typing import Final

FORMAT: Final = "auto"
"""Format of the log without a setting."""

LEVEL: Final = "info"
"""Lowest level of records without a setting."""

LIBRARIES: Final = "warning"
"""Lowest level of records of libraries without a setting."""
