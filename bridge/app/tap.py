"""Reader of the taps of daemons: of all of a configuration on this machine, which come and go, or of addresses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge.app import state
from bridge.app.composition import require
from bridge.app.operations.client import CONNECT_SECONDS, FIND_SECONDS, bounded_body, refusal_of
from bridge.app.remote import DaemonAddress, explained, operate
from bridge.app.serve.views.tap import TAP, TapOptions, condition
from bridge.config.source import Loaded
from bridge.core.errors import EngineTimeout, EngineUnavailable, InvalidCommand
from bridge.ops.access import Unauthenticated
from bridge.ops.api import PREFIX, TooManyRequests
from bridge.ops.audit import Denied
from bridge.ops.control import DIRECTORY, near, sockets
from bridge.system.processes import is_stopped
from bridge.system.tasks import cancelled

T = TypeVar("T")

SCAN_SECONDS = 0.5
"""Seconds between two scans for new daemons."""
_QUEUE = 64
"""Messages that wait to be printed. Beyond it nothing is read: the daemon counts what it leaves out."""
_LONGEST = 1024 * 1024
"""Bytes of the longest event."""


@dataclass(frozen=True, slots=True)
class DaemonNote:
    """Sentence about a daemon."""

    text: str


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """Settled delivery. document: JSON of `bridge.app.serve.views.tap`. daemon: host and process id."""

    daemon: str
    document: Mapping[str, Any]


DaemonPlace = Path | DaemonAddress
"""Control socket, or address of the ops port, of a daemon."""


def reader_of(loaded: Loaded, options: TapOptions) -> TapReader:
    """Reader of the daemons of a configuration on this machine. Raises: LookupError, InvalidCommand for an option."""
    for source in options.sources:
        require("source", source, loaded.config.sources)
    routes = {route.name: route for route in loaded.config.routes}
    for route in options.routes:
        require("route", route, routes)
    if options.where is not None:
        condition(options.where, loaded.config.vars)
    directory = state.state_directory(loaded) / DIRECTORY
    return TapReader(lambda: sockets(directory), options)


async def check_names(places: Sequence[DaemonAddress], options: TapOptions) -> None:
    """Check the names in the options. Raises: LookupError for one that no daemon knows, and as `remote.operate`."""
    sources: set[str] = set()
    routes: set[str] = set()
    if options.sources or options.routes:
        for place in places:
            found, rules = await operate(place, None, [("sources.list", {}), ("routes.list", {})])
            sources |= {each["source"] for each in found}
            routes |= {each["name"] for each in rules}
    for kind, names, known in (("source", options.sources, sources), ("route", options.routes, routes)):
        for name in names:
            require(kind, name, dict.fromkeys(known))


class _NotConfigured(Exception):
    """Raised when a daemon has no source or route of a name in the options. Another daemon may have it."""


class TapReader:
    """Reader that merges the taps of daemons."""

    def __init__(self, places: Callable[[], Sequence[DaemonPlace]], options: TapOptions) -> None:
        """Read nothing yet. places: daemons that are known now."""
        self._places = places
        self._options = options
        self._found: asyncio.Queue[DaemonNote | LiveMessage | Exception] = asyncio.Queue(_QUEUE)
        self._readers: dict[DaemonPlace, asyncio.Task[None]] = {}
        self._gone: set[DaemonPlace] = set()
        """Sockets of daemons that have ended, and daemons that cannot be watched."""
        self._silent: set[DaemonPlace] = set()
        """Daemons that take longer than usual to answer."""
        self._reached: set[DaemonAddress] = set()
        """Addresses that have answered."""
        self._lost: set[DaemonAddress] = set()
        """Addresses whose connection has ended."""
        self._connections = count()
        self._counts: dict[int, Counter[str]] = {}
        """Last counts by connection."""
        self._versions: dict[int, str] = {}
        """Last version of the configuration by connection."""
        self.daemons: set[str] = set()
        """Daemons that have answered."""

    def counts(self) -> Counter[str]:
        """Counts of all daemons since this reader began; see `bridge.app.serve.views.tap.Tap.counts`."""
        return sum(self._counts.values(), Counter())

    async def read(self) -> AsyncGenerator[DaemonNote | LiveMessage, None]:
        """Messages and notes, without end.

        Raises: InvalidCommand when a daemon refuses the tap; of an address also Unauthenticated, Denied,
        EngineUnavailable.
        """
        scanning = asyncio.create_task(self._scan())
        try:
            while True:
                found = await self._found.get()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            await cancelled(scanning, *self._readers.values())

    async def _scan(self) -> None:
        waiting = False
        while True:
            places = self._places()
            self._gone.intersection_update(places)
            self._readers = {place: task for place, task in self._readers.items() if not task.done()}
            for place in places:
                if place not in self._readers and place not in self._gone:
                    follow = self._follow_address(place) if isinstance(place, DaemonAddress) else self._follow(place)
                    self._readers[place] = asyncio.create_task(follow)
            if self._readers:
                waiting = False
            elif not waiting:
                waiting = True
                await self._found.put(
                    DaemonNote("no daemon of this configuration runs on this machine; waiting for one")
                )
            await asyncio.sleep(SCAN_SECONDS)

    async def _follow(self, path: Path) -> None:
        """Read the tap of one daemon to its end."""
        name = f"daemon {path.name.partition('-')[0]}"
        try:
            with near(path) as short:
                async with aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(short, limit=1), timeout=aiohttp.ClientTimeout(total=None)
                ) as session:
                    await self._stream(session, path, name)
        except aiohttp.ClientConnectorError:
            self._gone.add(path)  # left by a killed daemon
        except (aiohttp.ClientError, OSError):
            await self._found.put(DaemonNote(f"{name} has closed the connection"))
        except InvalidCommand as error:
            await self._found.put(error)
        except _NotConfigured as error:
            self._gone.add(path)
            await self._found.put(DaemonNote(f"{name} is left out: {error}"))
        except (ValueError, LookupError, TypeError):
            self._gone.add(path)
            await self._found.put(DaemonNote(f"{name} sends what this version does not understand, and is left out"))

    async def _follow_address(self, place: DaemonAddress) -> None:
        """Read the tap of the daemon behind an address, again and again; the first attempt must succeed."""
        while True:
            try:
                async with aiohttp.ClientSession(
                    connector=place.connector,
                    headers=place.headers,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                    trust_env=False,
                ) as session:
                    await self._stream(session, place, place.url, place.url)
            except TooManyRequests as error:
                await asyncio.sleep(error.seconds)
                continue
            except (Unauthenticated, Denied, InvalidCommand, EngineUnavailable) as error:
                await self._found.put(explained(error, place))
                return
            except _NotConfigured as error:
                self._gone.add(place)
                await self._found.put(DaemonNote(f"{place.url} is left out: {error}"))
                return
            except (aiohttp.ClientError, OSError) as error:
                if place not in self._reached:
                    failed = EngineTimeout(f"{place.url} does not answer")
                    failed.__cause__ = error
                    await self._found.put(explained(failed, place))
                    return
                if place not in self._lost:
                    self._lost.add(place)
                    await self._found.put(DaemonNote(f"{place.url} has closed the connection; trying again"))
            except (ValueError, LookupError, TypeError):
                await self._found.put(EngineUnavailable(f"{place.url} sends what this version does not understand"))
                return
            await asyncio.sleep(SCAN_SECONDS)

    async def _stream(
        self, session: aiohttp.ClientSession, path: DaemonPlace, name: str, base: str = "http://localhost"
    ) -> None:
        options = quote(self._options.model_dump_json(), safe="")
        url = URL(f"{base}{PREFIX}{TAP}?options={options}", encoded=True)
        async with await self._patiently(session.get(url, allow_redirects=False), path, name) as response:
            if response.status != 200:
                refusal = refusal_of(response, await bounded_body(response, _LONGEST))
                if type(refusal) is LookupError:
                    raise _NotConfigured(str(refusal))
                raise refusal if isinstance(path, DaemonAddress) else InvalidCommand(str(refusal))
            if isinstance(path, DaemonAddress):
                self._reached.add(path)
                self._lost.discard(path)
            key, rest = next(self._connections), b""
            while chunk := await self._patiently(response.content.readany(), path, name):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LONGEST:
                    raise ValueError("the event is too long")
                for line in lines:
                    if line.startswith(b"data: "):
                        name = await self._event(json.loads(line[6:]), key)
            raise aiohttp.ServerDisconnectedError

    async def _patiently(self, work: Coroutine[Any, Any, T], path: DaemonPlace, name: str) -> T:
        """Result of a call to a daemon, with a note when it takes long."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=FIND_SECONDS)
            if not done and path not in self._silent:
                self._silent.add(path)
                await self._found.put(DaemonNote(_silence(name, path)))
            result = await task
        finally:
            task.cancel()
        if path in self._silent:
            self._silent.discard(path)
            await self._found.put(DaemonNote(f"{name} answers again"))
        return result

    async def _event(self, event: Any, key: int) -> str:
        """Take one event; return the name of its daemon."""
        daemon = str(event["daemon"])
        if key not in self._counts:
            self.daemons.add(daemon)
            await self._found.put(DaemonNote(f"watching daemon {daemon}"))
        version = event.get("config")
        if version is not None and self._versions.setdefault(key, version) != version:
            self._versions[key] = version
            await self._found.put(DaemonNote(f"daemon {daemon} has reloaded and uses the configuration {version}"))
        self._counts[key] = Counter({name: int(number) for name, number in event["counts"].items()})
        if "delivery" in event:
            await self._found.put(LiveMessage(daemon, event["delivery"]))
        return f"daemon {daemon}"


def _silence(name: str, path: DaemonPlace) -> str:
    if isinstance(path, DaemonAddress):
        return f"{name} does not answer for {FIND_SECONDS:g} s"
    pid = path.name.partition("-")[0]
    if is_stopped(pid):
        return f"{name} does not answer: process {pid} is frozen by a signal. Next: kill -CONT {pid}"
    return f"{name} does not answer for {FIND_SECONDS:g} s"
