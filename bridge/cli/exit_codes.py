"""What the exit code of every command says."""

from __future__ import annotations

from bridge.errors import BridgeError, BrokerUnavailable, ConfigError, EngineOutage

OK = 0
"""It was done, and what was expected is so."""
FAILED = 1
"""There are problems, or what was expected is not so."""
USAGE = 2
"""The command line cannot be understood."""
UNAVAILABLE = 3
"""The configuration cannot be used, or the daemon, the engine or the broker cannot be reached."""
INTERRUPTED = 130
"""Stopped by Ctrl-C."""
BROKEN_PIPE = 141
"""Whoever read the output went away."""

MEANINGS = {
    OK: "done, and what was expected is so",
    FAILED: "problems were found, or what was expected is not so",
    USAGE: "the command line cannot be understood",
    UNAVAILABLE: "the configuration is broken, or the daemon, engine or broker cannot be reached",
}


def of(error: BridgeError) -> int:
    """The exit code that an error leads to."""
    return UNAVAILABLE if isinstance(error, ConfigError | EngineOutage | BrokerUnavailable) else FAILED
