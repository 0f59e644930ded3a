"""SIGHUP of a process that reloads its configuration on it, from the first moments of the process."""

from __future__ import annotations

import signal


class EarlyHangUp:
    """Memory of a SIGHUP that comes before anything can reload: the process goes on, and reloads when it can."""

    def __init__(self) -> None:
        """Remember each SIGHUP from now on, until another handler is set."""
        self.was_received = False
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._remember)

    def _remember(self, *_: object) -> None:
        self.was_received = True
