"""Control channel: the daemon's routes, and the path of a command to a daemon or directly to the engine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from bridge.app import state
from bridge.app.check.configuration import inspect
from bridge.app.connection import attached, chosen, located
from bridge.app.operations.client import FIND_SECONDS, Call, ask_over, each_of, send, while_alive
from bridge.app.operations.operation import (
    TABLE,
    Operation,
    Reload,
    Scene,
    begun,
    instance_of,
    keyed,
    location_of,
    perform,
)
from bridge.app.serve.shadow import SHADOW, Shadows
from bridge.app.serve.views.all_daemons import OtherDaemons, pid_of
from bridge.app.serve.views.status import daemon_id
from bridge.config.source import Loaded
from bridge.core import errors
from bridge.core.errors import BridgeError, EngineTimeout, InvalidCommand
from bridge.engines.base import Engine
from bridge.engines.workload import Workload
from bridge.ops.access import Caller
from bridge.ops.api import PREFIX, STATUS, ApiRoute, EventStream
from bridge.ops.audit import Actor, record, user
from bridge.ops.control import DIRECTORY, Control, near, sockets
from bridge.ops.status import StatusDocument
from bridge.system.processes import is_stopped
from bridge.system.tasks import cancelled

if TYPE_CHECKING:
    from bridge.pipeline.source import SourcePipeline

log = logging.getLogger("bridge.control")

OTHERS_SECONDS = 1.0
"""Seconds for what other daemons add to the answer of one."""


def routes(
    loaded: Loaded,
    engines: Mapping[str, Engine],
    status: Callable[[], Awaitable[StatusDocument]] | None = None,
    sources: Sequence[SourcePipeline] = (),
    current: Callable[[], Loaded] | None = None,
    reload: Callable[[], Reload | None] = lambda: None,
    candidate: Callable[[], Loaded | None] = lambda: None,
    held: Callable[[str], Workload | None] = lambda name: None,
    others: OtherDaemons | None = None,
) -> list[ApiRoute]:
    """Routes of the API of a daemon.

    status: status of the daemon; None: the API has none. sources: of the daemon.
    current: configuration in use; None: always `loaded`. reload: returns the reload of the daemon, see `Scene`.
    candidate: returns the candidate for the rules that is in use.
    held: see `Scene`. others: answers of the other daemons.
    """
    from bridge.app.operations.table import OPERATIONS
    from bridge.app.serve.views.lineage import in_flight

    others = others or OtherDaemons(daemon_id(os.getpid()))

    def in_use() -> Loaded:
        return loaded if current is None else current()

    async def engine(name: str | None) -> Engine:
        return engines[chosen(loaded, name)]

    async def elsewhere(message: str) -> tuple[Sequence[Mapping[str, Any]], int]:
        name, given = "messages.show", {"message": message}
        asked, (answers, silent) = await asyncio.gather(
            ask_daemons(in_use(), name, given, OTHERS_SECONDS, but=str(os.getpid())),
            others.ask_registered(in_use(), name, given, OTHERS_SECONDS),
        )
        return [each for answer in (*asked.answers, *answers) for each in answer or ()], asked.silent + silent

    async def answer(operation: Operation[Any], given: Mapping[str, Any], caller: Caller, key: str | None) -> Any:
        now, tried = in_use(), candidate()
        opened = partial(located, now, operation.engine_of(now, given), instance_of(operation, given), engine)
        scene = Scene(
            now, opened, caller, partial(in_flight, sources), elsewhere, partial(_problems, now), reload(), engine,
            None if tried is None else tried.version, held,
        )  # fmt: skip
        return await perform(operation, keyed(operation, given, caller.actor, key), scene)

    async def refused(operation: Operation[Any], given: Mapping[str, Any], actor: Actor) -> None:
        if operation.changes:
            trail, change = begun(operation, given, actor, loaded)
            change.deny()
            await asyncio.to_thread(record, trail, change)

    found = [
        ApiRoute(one.method, one.path, partial(answer, one), partial(refused, one), partial(_location, one))
        for one in OPERATIONS
    ]
    if status is not None:
        found.append(ApiRoute("GET", STATUS, partial(_status, status, in_use, others), _no_audit))
    return [*found, ApiRoute("GET", "openapi.json", _openapi, _no_audit)]


def _location(operation: Operation[Any], given: Mapping[str, Any], result: Any) -> str | None:
    path = location_of(operation, given, result)
    return None if path is None else PREFIX + path


def shadow_routes(shadows: Shadows) -> list[ApiRoute]:
    """Routes of the shadow of a daemon, for its control channel only."""
    return [
        ApiRoute("POST", SHADOW, _plain(shadows.start), _no_audit),
        ApiRoute("GET", SHADOW, _plain(shadows.report), _no_audit),
        ApiRoute("POST", f"{SHADOW}:stop", _plain(shadows.stop), _no_audit),
    ]


def largest_body(loaded: Loaded) -> int:
    """Bytes of the largest body of a request. A character of a payload takes up to six bytes in JSON for two."""
    return 3 * max(config.max_request for config in loaded.config.engines.values()) + 1024 * 1024


def control(
    loaded: Loaded,
    served: Sequence[ApiRoute],
    admitted: frozenset[int] | None = None,
    streams: Sequence[EventStream] = (),
) -> Control:
    """Create the control channel of a daemon, not started.

    served, streams: places of the daemon. admitted: see `Control`.
    """
    directory = state.state_directory(loaded) / DIRECTORY
    return Control(directory, served, largest_body(loaded), admitted, loaded.config.ops.control, streams)


def _problems(loaded: Loaded) -> Sequence[errors.Problem]:
    # The modules of workflows are imported already: another import, in another thread, could run their code twice
    return inspect(loaded, imports=False).problems


async def _status(
    status: Callable[[], Awaitable[StatusDocument]],
    current: Callable[[], Loaded],
    others: OtherDaemons,
    given: Mapping[str, Any],
    caller: Caller,
    key: str | None,
) -> StatusDocument:
    which = given.get("daemons", "this")
    if given.keys() - {"daemons"} or which not in ("this", "all"):
        raise InvalidCommand("status: the only parameter is `daemons`: `this` or `all`")
    own = await status()
    if which == "this":
        return own
    return await others.new_status(current(), own)


def _plain(
    answer: Callable[[Mapping[str, Any]], Awaitable[Any]],
) -> Callable[[Mapping[str, Any], Caller, str | None], Awaitable[Any]]:
    async def answered(given: Mapping[str, Any], caller: Caller, key: str | None) -> Any:
        return await answer(given)

    return answered


async def _openapi(given: Mapping[str, Any], caller: Caller, key: str | None) -> Any:
    from bridge.app.operations import openapi
    from bridge.app.operations.table import OPERATIONS

    return openapi.document(OPERATIONS)


async def _no_audit(given: Mapping[str, Any], actor: Actor) -> None:
    """Write no audit line: reading leaves none."""


def _operations() -> Mapping[str, Operation[Any]]:
    """All operations by name. Their import takes long, and `bridge status` uses none."""
    from bridge.app.operations.table import BY_NAME

    return BY_NAME


async def operate(loaded: Loaded, engine: str | None, calls: Sequence[Call]) -> list[Any]:
    """Run operations one after the other, by a running daemon or else on the engine itself; return their results.

    calls: names and parameters. Raises: LookupError for an unknown engine, BridgeError.
    """
    return [result async for result in _results(loaded, engine, calls)]


async def operate_each(loaded: Loaded, engine: str | None, calls: Sequence[Call]) -> list[Any]:
    """Run operations as `operate` does, and return their results or errors. An outage ends the list.

    Raises: LookupError for an unknown engine.
    """
    return await each_of(partial(_results, loaded, engine), calls)


async def _results(loaded: Loaded, engine: str | None, calls: Sequence[Call]) -> AsyncIterator[Any]:
    reads = not any(_operations()[name].changes for name, _ in calls)
    daemon = await _find(loaded, engine, reads=reads)
    if daemon is not None:
        for name, given in calls:
            yield await _watched(daemon, _operations()[name], {"engine": engine, **given})
        return
    async with AsyncExitStack() as stack:
        opened: dict[str, Engine] = {}

        async def direct(name: str | None) -> Engine:
            name = chosen(loaded, name)
            if name not in opened:
                opened[name] = await stack.enter_async_context(attached(loaded, name))
            return opened[name]

        for name, given in calls:
            operation, sent = _operations()[name], {"engine": engine, **given}
            of_request = partial(
                located, loaded, operation.engine_of(loaded, sent), instance_of(operation, sent), direct
            )
            scene = Scene(loaded, of_request, Caller(user(), "admin", True), open=direct)
            yield await perform(operation, sent, scene)


@dataclass(frozen=True, slots=True)
class DaemonAnswers:
    """Answers of all daemons of a state directory. silent: number of those that did not answer."""

    answers: Sequence[Any]
    silent: int


async def ask_daemons(
    loaded: Loaded, name: str, given: Mapping[str, Any], seconds: float = FIND_SECONDS, but: str = ""
) -> DaemonAnswers:
    """Ask every running daemon of the state directory. but: process id of one that is not asked.

    Raises: InvalidCommand.
    """
    operation = _operations()[name]

    async def asked(path: Path) -> Any:
        if is_stopped(pid_of(path)):
            raise TimeoutError
        async with asyncio.timeout(seconds):
            return await _ask(path, operation, given)

    found = [each for each in sockets(state.state_directory(loaded) / DIRECTORY) if pid_of(each) != but]
    results = await asyncio.gather(*(asked(path) for path in found), return_exceptions=True)
    silent = 0
    answers = []
    for result in results:
        if isinstance(result, InvalidCommand):
            raise result
        if not isinstance(result, BaseException):
            answers.append(result)
        elif isinstance(result, TimeoutError) or not isinstance(result.__cause__ or result, OSError):
            silent += 1  # otherwise it is the socket of a killed daemon, which refuses the connection
    return DaemonAnswers(answers, silent)


async def ask_each(loaded: Loaded, name: str, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Ask every running daemon of the state directory; return its id with its answer or error.

    Each is waited for while it lives. An EngineTimeout stands for a daemon that does not answer.
    """

    async def asked(path: Path) -> tuple[str, Any] | None:
        pid = path.name.partition("-")[0]
        daemon = daemon_id(int(pid)) if pid.isdecimal() else path.name
        try:
            async with asyncio.timeout(FIND_SECONDS):
                await _ask(path, _operations()["engines.list"], {})
            return daemon, await _watched(path, _operations()[name], given)
        except TimeoutError:
            return daemon, EngineTimeout(f"no answer within {FIND_SECONDS:g} s; is it frozen?")
        except BridgeError as error:
            if isinstance(error.__cause__, ConnectionRefusedError | aiohttp.ClientConnectorError):
                return None  # the socket of a killed daemon
            return daemon, error
        except OSError as error:
            return daemon, EngineTimeout(f"cannot connect: {error.strerror}")

    found = await asyncio.gather(*map(asked, sockets(state.state_directory(loaded) / DIRECTORY)))
    return [each for each in found if each is not None]


async def _find(loaded: Loaded, engine: str | None, *, reads: bool) -> Path | None:
    """Socket of the newest answering daemon that has the same engine; None when there is none.

    reads: only a daemon with the same table of operations.
    """
    try:
        name = chosen(loaded, engine)
    except LookupError:
        return None
    wanted = {"name": name, "fingerprint": state.fingerprint(loaded, name)} | ({"table": TABLE} if reads else {})
    paths = sockets(state.state_directory(loaded) / DIRECTORY)
    answers = [asyncio.create_task(_engines(path)) for path in paths]
    try:
        for path, answer in zip(paths, answers, strict=True):
            if any(wanted.items() <= one.items() for one in await answer or ()):
                return path
    finally:
        await cancelled(*answers)
    return None


async def _engines(path: Path) -> Sequence[Mapping[str, Any]] | None:
    """Engines of the daemon behind a socket; None when it does not answer."""
    try:
        async with asyncio.timeout(FIND_SECONDS):
            known: Sequence[Mapping[str, Any]] = await _ask(path, _operations()["engines.list"], {})
    except TimeoutError:
        pid = path.name.partition("-")[0]
        log.warning("daemon %s does not answer and is skipped. If it is frozen: kill -CONT %s", pid, pid)
        return None
    except (OSError, BridgeError):
        return None
    return known


async def _watched(path: Path, operation: Operation[Any], given: Mapping[str, Any]) -> Any:
    """Answer of a daemon. Wait for it while the daemon lives. Raises: as `operate`."""

    async def is_alive() -> bool:
        return await _engines(path) is not None

    return await while_alive(_ask(path, operation, given), is_alive, FIND_SECONDS, operation.name, "the daemon")


async def _ask(path: Path, operation: Operation[Any], given: Mapping[str, Any]) -> Any:
    with near(path) as short:
        async with aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(short, limit=1), raise_for_status=False
        ) as session:
            return await ask_over(session, operation, given)


async def request(path: Path, name: str, method: str, place: str, given: Mapping[str, Any] | None = None) -> Any:
    """Answer of a daemon at a place of its API without an operation.

    path: socket of the daemon. name: of the request, for errors. place: below /api/v1/. given: members of the body.
    Raises: BridgeError; EngineTimeout whose cause is an OSError when nothing listens.
    """
    body = None if method == "GET" else json.dumps(given or {})
    with near(path) as short:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(short, limit=1)) as session:
            return await send(session, name, method, f"http://localhost{PREFIX}{place}", body)
