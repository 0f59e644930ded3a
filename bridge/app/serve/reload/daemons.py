"""Daemons of one engine, as each of them knows the others: registrations, and reloads that are for all of them."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from bridge.app.serve.views.status import daemon_id
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.engines.entities.reload_requests import REGISTERED_SECONDS, ReloadRequests, State, interval_of, url_of
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.reload")

_DETAIL = 500
"""Most characters of the cause of a refused reload in the answer to all."""
_AGAIN = 15.0
"""Seconds until another attempt when the engine is away."""


def registry_engine(loaded: Loaded) -> str | None:
    """Engine with the registrations of daemons: the first remote one. None: all daemons run on one machine."""
    engines = loaded.config.engines.items()
    return next((name for name, engine in engines if not isinstance(engine, EmbeddedEngineConfig)), None)


class Renewals:
    """Registrations that daemons renew, counted in those of this daemon that have arrived. Pure.

    No clocks are compared. While the engine, its worker or this daemon stands still, nobody misses anything.
    """

    def __init__(self, own: str) -> None:
        """Know no daemon yet. own: id of this daemon."""
        self._own = own
        self._times: dict[str, float] = {}
        """Times of the last registrations, by the clocks of the daemons."""
        self._unrenewed: dict[str, int] = {}
        """Registrations of this daemon since the last one of another, as seen in the state."""
        self._counted = -math.inf
        """Time of the last counted registration of this daemon."""

    def read(self, times: Mapping[str, float], now: float) -> None:
        """Take the times of registrations as the engine has them. now: monotonic seconds."""
        # A reload registers, too, which is no interval
        counts = times.get(self._own) != self._times.get(self._own) and now - self._counted > REGISTERED_SECONDS / 2
        if counts:
            self._counted = now
        self._unrenewed = {
            name: self._unrenewed.get(name, 0) + counts if self._times.get(name) == at else 0
            for name, at in times.items()
        }
        self._times = dict(times)

    def missed(self, name: str, interval: float) -> int:
        """Registrations that a daemon has missed, at least. interval: seconds between two of them."""
        return int(self._unrenewed.get(name, 0) * REGISTERED_SECONDS / interval)


class Peers:
    """Registration of this daemon on its engine, and reloads that are requested there for all daemons."""

    def __init__(
        self,
        requests: ReloadRequests,
        reload: Callable[[str], Awaitable[Mapping[str, Any]]],
        version: Callable[[], str],
        url: str | None,
    ) -> None:
        """Create the registration.

        reload: reloads the configuration of this daemon, for somebody of the given name.
        version: version of the configuration in use.
        url: address at which this daemon answers others; None: it does not.
        """
        self._url = url
        self._requests = requests
        self._reload = reload
        self._version = version
        self._id = daemon_id(os.getpid())
        self._state: State | None = None
        self._handled: str | None = None
        self._working: asyncio.Task[None] | None = None
        self._renewals = Renewals(self._id)
        self._registered: str | None = None
        """Version of the last registration."""
        self._changed = asyncio.Event()

    def others(self) -> Sequence[Mapping[str, Any]]:
        """Other daemons of the engine, as last read.

        Each has `id`, `config` (version of its configuration), `at` (its last registration, in seconds since the Unix
        epoch), `url` and `missed`, see `Renewals.missed`.
        """
        daemons = {} if self._state is None else self._state["daemons"]
        return [
            {
                "id": name,
                "config": each["version"],
                "at": each["at"],
                "url": url_of(each),
                "missed": self._renewals.missed(name, interval_of(each)),
            }
            for name, each in sorted(daemons.items())
            if name != self._id
        ]

    def read(self, state: State) -> None:
        """Take the state of the engine, which is read every few seconds; reload when it has a new request."""
        first, self._state = self._state is None, state
        self._renewals.read({name: each["at"] for name, each in state["daemons"].items()}, time.monotonic())
        if self._registered is not None and self._registered != self._version():
            self._changed.set()
        request = state["request"]
        wanted = None if request is None else request["id"]
        if first:
            self._handled = wanted  # requested before this daemon has read its files
        if wanted == self._handled or (self._working is not None and not self._working.done()):
            return
        self._handled = wanted
        self._working = asyncio.create_task(self._answer(request), name="reload of all daemons")

    async def run(self) -> None:
        """Register again and again. Never returns."""
        while True:
            self._changed.clear()
            about = self._about()
            try:
                await self._requests.send("register", about)
            except EngineError as error:
                log.info("the daemon cannot be registered", action="register", detail=str(error))
                await asyncio.sleep(_AGAIN)
                continue
            self._registered = about["version"]
            with suppress(TimeoutError):
                async with asyncio.timeout(REGISTERED_SECONDS):
                    await self._changed.wait()

    async def stop(self) -> None:
        """Leave the other daemons."""
        await cancelled(self._working)
        try:
            async with asyncio.timeout(2.0):
                await self._requests.send("leave", {"daemon": self._id})
        except (EngineError, TimeoutError):
            log.info("the registration of the daemon ends by its age", action="register")

    def _about(self) -> dict[str, Any]:
        return {
            "daemon": self._id, "at": time.time(), "version": self._version(), "every": REGISTERED_SECONDS,
            "url": self._url,
        }  # fmt: skip

    async def _answer(self, request: Mapping[str, Any]) -> None:
        try:
            answer = await self._reload(f"{request['by']} (all daemons)")
        except Exception as error:
            log.error("the reload failed unexpectedly", action="bug", exc_info=error)
            answer = {"result": "refused", "problems": [f"bug: {type(error).__name__}, see the log"]}
        detail = "; ".join(answer["problems"])[:_DETAIL]
        while True:
            about = self._about() | {"request": request["id"], "result": answer["result"], "detail": detail}
            try:
                await self._requests.send("answer", about)
            except EngineError as error:
                log.info("the answer to a reload waits for the engine", action="hold", detail=str(error))
                await asyncio.sleep(_AGAIN)
            else:
                return
