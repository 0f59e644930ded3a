"""Circuit breaker of an engine: an unavailable engine gets one probe at a time, and a silent one is detected soon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from bridge.core.errors import BridgeError, EngineOutage, EngineTimeout
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.breaker")

_LONGEST_DELAY = 1.5

_SILENT_AFTER = 0.35
_CHECK_SECONDS = 0.1
_FIRST_PROBE = 0.5
"""Seconds until a probe without an answer opens the breaker.

When calls wait and none is answered for `_SILENT_AFTER` seconds, the breaker sends a probe. A frozen engine is detected
within a second, long before the deadlines of the calls.
"""

_LONGEST_PROBE = 10.0


class Breaker:
    """Circuit breaker of one engine.

    Closed: commands pass. Open after an outage: `probe` is called with back-off and jitter until it returns. The
    breaker then closes and notifies every listener. The longest pause between probes lets work resume within two
    seconds of the engine's return. An unanswered probe is given up, the first soon, later ones after longer: a slow
    engine must not be mistaken for an unavailable one for ever.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]], first_delay: float = 0.05) -> None:
        self.name = name
        self.error: EngineOutage | None = None
        """Outage that keeps the breaker open; None while it is closed."""
        self._probe = probe
        self._first_delay = first_delay
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._calling = 0
        self._answered_at = 0.0
        self._check_timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` each time the breaker opens or closes."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Remove a listener."""
        self._listeners.remove(listener)

    def trip(self, error: EngineOutage) -> None:
        """Open the breaker: a call met an outage."""
        if self.error is not None:
            return
        self.error = error
        self._task = asyncio.get_running_loop().create_task(self._recover(), name=f"breaker:{self.name}")
        self._notify()

    def begin(self) -> None:
        """Note that a command is given to the engine. Call `end` when it is over, with any result."""
        self._calling += 1
        if self._calling == 1:
            loop = asyncio.get_running_loop()
            self._answered_at = loop.time()
            if self._check_timer is None:
                self._check_timer = loop.call_later(_SILENT_AFTER, self._check_silence)

    def end(self) -> None:
        """Note that the engine answered a command, or that a call failed."""
        self._calling -= 1
        self._answered_at = asyncio.get_running_loop().time()

    def succeed(self) -> None:
        """Reset the back-off: a command succeeded."""
        self._failures = 0

    async def stop(self) -> None:
        """Stop probing. Idempotent."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        tasks = (self._task, self._probing)
        self._task = self._probing = None
        await cancelled(*tasks)

    def _check_silence(self) -> None:
        """Send a probe when the engine has been silent while calls wait for it."""
        self._check_timer = None
        if not self._calling:
            return
        loop = asyncio.get_running_loop()
        silent = loop.time() - self._answered_at >= _SILENT_AFTER
        if silent and self.error is None and self._probing is None:
            self._probing = loop.create_task(self._probe_once(), name=f"breaker:{self.name}:ask")
        self._check_timer = loop.call_later(_CHECK_SECONDS, self._check_silence)

    async def _probe_once(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        error = await self._probed(_FIRST_PROBE)
        self._probing = None
        if error is None:
            self._answered_at = max(self._answered_at, asyncio.get_running_loop().time())
        elif self._answered_at < asked_at:
            self.trip(error)

    async def _recover(self) -> None:
        while True:
            self._failures += 1
            ceiling = min(_LONGEST_DELAY, self._first_delay * 2.0 ** min(self._failures - 1, 16))
            await asyncio.sleep(ceiling * (0.5 + random.random() / 2))  # noqa: S311 -- jitter, not a secret
            timeout = min(_LONGEST_PROBE, 2 * _FIRST_PROBE * 2.0 ** min(self._failures - 1, 16))
            error = await self._probed(timeout)
            if error is None:
                break
            self.error = error
        self.error = None
        self._task = None
        self._notify()

    async def _probed(self, limit: float) -> EngineOutage | None:
        """Probe the engine; None when it answered within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._probe()
        except TimeoutError:
            return EngineTimeout(f"engine {self.name!r}: no answer within {limit:g} s")
        except EngineOutage as error:
            return error
        except BridgeError:
            return None  # the engine answered, if with an error
        except Exception as error:
            # A bug must not end the probing: the breaker would stay open for ever
            log.error(
                f"the probe of engine {self.name} failed unexpectedly", action="bug", engine=self.name, exc_info=error
            )
            return None if self.error is None else EngineTimeout(f"engine {self.name!r}: the probe failed, see the log")
        return None

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()
