"""Exit codes of commands."""

from __future__ import annotations

from bridge.core.errors import BridgeError, BrokerUnavailable, ConfigError, EngineOutage

OK = 0
"""Success."""
FAILED = 1
"""Problems were found, or the expected result did not occur."""
USAGE = 2
"""Command line is invalid."""
UNAVAILABLE = 3
"""Configuration is invalid, or the daemon, the engine or the broker cannot be reached."""
INTERRUPTED = 130
"""Stopped by Ctrl-C."""
BROKEN_PIPE = 141
"""Reader of the output closed the pipe."""

MEANINGS = {
    OK: "success",
    FAILED: "problems were found, or the operation failed",
    USAGE: "the command line is not valid",
    UNAVAILABLE: "the configuration is not valid, or the daemon, engine or broker cannot be reached",
}


def of(error: BridgeError) -> int:
    """Exit code for an error."""
    return UNAVAILABLE if isinstance(error, ConfigError | EngineOutage | BrokerUnavailable) else FAILED
