"""While an engine is away nothing is sent to it but one probe at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from bridge.errors import BridgeError, EngineOutage

log = structlog.get_logger("bridge.breaker")

_LONGEST_DELAY = 1.5


class Breaker:
    """Circuit breaker of one engine.

    Closed: commands pass. Open after an outage: `probe` is called with back-off and jitter until it returns; then the
    breaker closes and every listener is told. The longest pause between probes keeps the promise to go on within two
    seconds of the engine's return.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]], first_delay: float = 0.05) -> None:
        self.name = name
        self.error: EngineOutage | None = None
        """The outage that keeps the breaker open; None while it is closed."""
        self.openings = 0
        self._probe = probe
        self._first_delay = first_delay
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def open(self) -> bool:
        return self.error is not None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` each time the breaker opens or closes."""
        self._listeners.append(listener)

    def trip(self, error: EngineOutage) -> None:
        """A call met an outage."""
        if self.error is not None:
            return
        self.error = error
        self.openings += 1
        self._task = asyncio.get_running_loop().create_task(self._recover(), name=f"breaker:{self.name}")
        self._tell()

    def succeed(self) -> None:
        """A command went through: the next outage starts with a short pause again."""
        self._failures = 0

    async def stop(self) -> None:
        """Probe no more. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _recover(self) -> None:
        while True:
            self._failures += 1
            ceiling = min(_LONGEST_DELAY, self._first_delay * 2.0 ** min(self._failures - 1, 16))
            await asyncio.sleep(ceiling * (0.5 + random.random() / 2))  # noqa: S311 -- jitter, not a secret
            try:
                await self._probe()
            except EngineOutage as error:
                self.error = error
            except BridgeError:
                break  # the engine answered, if not kindly
            except Exception as error:
                # A bug must not end the probing: the breaker would stay open for ever
                log.error("probe failed unexpectedly", action="bug", engine=self.name, exc_info=error)
            else:
                break
        self.error = None
        self._task = None
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
