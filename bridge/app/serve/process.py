"""Process of a daemon: signals, ready file, control channel, exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import structlog

from bridge.app import configurations
from bridge.app.check.configuration import inspect
from bridge.app.composition import config_paths, own_packages
from bridge.app.serve.control import control, shadow_routes
from bridge.app.serve.daemon import Daemon
from bridge.app.serve.readiness import clear_ready, write_ready
from bridge.app.serve.reload.daemons import Peers, registry_engine
from bridge.app.serve.reload.file_watch import FileWatch, Signature, signature
from bridge.app.serve.reload.reloader import Files, Reloader
from bridge.app.state import trails
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError, ConfigError
from bridge.engines.entities.reload_requests import ReloadRequests
from bridge.ops import logging
from bridge.ops.audit import settle
from bridge.ops.control import Control
from bridge.system.hang_up import EarlyHangUp
from bridge.system.memory import tune_memory
from bridge.system.service_manager import ServiceManager
from bridge.system.tasks import cancelled, closed

log = structlog.get_logger("bridge.daemon")


def serve(
    loaded: Loaded,
    files: Files,
    *,
    hang_up: EarlyHangUp,
    intake: bool = True,
    worker: bool = True,
    ready_file: Path | None = None,
    log_levels: Mapping[str, logging.Level] | None = None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit code. SIGHUP reloads the configuration.

    The daemon reports its readiness, its reloads and its stop to systemd, and answers its watchdog. A second SIGTERM or
    SIGINT ends the process at once.
    files: those that `loaded` was read from.
    hang_up: from before they were read.
    ready_file: written when the daemon is ready for the first time, with the process id, the address of the ops port
    and the control socket as JSON; removed before that and at the end.
    log_levels: levels of the log by logger, instead of those of the configuration; `""` is the whole log.
    Raises: ConfigError, before anything is opened; BridgeError when a part cannot be opened.
    """
    known = signature(loaded, _paths(files)) if loaded.config.ops.reload.watch else ()
    wanted = loaded.config.ops.log
    levels = dict(log_levels or {})
    level = levels.pop("", wanted.level)
    logging.configure(level, wanted.format, libraries=wanted.libraries, own=own_packages(loaded), levels=levels)
    if ready_file is not None:
        clear_ready(ready_file)
    found = inspect(loaded, imports=worker)
    if found.errors:
        raise ConfigError([problem for problem in found.problems if problem.severity == "error"])
    for warning in found.problems:
        log.warning(str(warning), action="check")
    tune_memory()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        stopped = runner.run(_serve(loaded, files, hang_up, intake, worker, ready_file, known, dict(log_levels or {})))
    if not stopped:
        _end_at_once(0)
    return 0


def _paths(files: Files) -> Sequence[Path]:
    return (*config_paths(files.config), *files.overlays)


def _end_at_once(code: int) -> NoReturn:
    """End the process: a workflow thread that never returns would keep the interpreter running."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(
    loaded: Loaded,
    files: Files,
    hang_up: EarlyHangUp,
    intake: bool,
    worker: bool,
    ready_file: Path | None,
    known: Signature,
    levels: Mapping[str, logging.Level],
) -> bool:
    """Run the daemon. known: signature of its files as they were read. levels: as `log_levels` of `serve`."""
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    if intake:
        configurations.store(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, reload.set)
    if hang_up.was_received:
        reload.set()
    daemon = Daemon(loaded, intake=intake, worker=worker, log_levels=levels)
    flush = None if daemon.tracing is None else daemon.tracing.install_provider()
    await daemon.start()
    reloader = Reloader(daemon, files)
    daemon.reload_by(lambda plan_only, by: reloader.plan() if plan_only else reloader.reload(by))
    manager = ServiceManager()
    peers = _peers(daemon, reloader)
    besides: dict[str, Coroutine[Any, Any, None]] = {
        "reload": _reload_always(reloader, reload, manager),
        "watchdog": manager.keep_alive(),
    }
    if (watch := loaded.config.ops.reload).watch:
        watching = FileWatch(lambda: daemon.loaded, _paths(files), watch.interval, reloader.reload, known)
        besides["file watch"] = watching.run()
    if peers is not None:
        besides["registration"] = peers.run()
    tasks = [asyncio.create_task(each, name=name) for name, each in besides.items()]
    failure: Exception | None = None
    channel: Control | None = None
    try:
        channel = await _channel(daemon)
        if channel is not None:
            daemon.control_by(channel)
        await _run(daemon, ready_file, stop, manager)
    except Exception as error:
        failure = error
    if ready_file is not None:
        with suppress(BridgeError):
            clear_ready(ready_file)
    if channel is not None:
        await closed(channel.stop())
    drain = loaded.config.ops.drain
    manager.stopping()
    log.info("draining", action="drain", deadline=drain)
    await cancelled(*tasks)
    end = loop.time() + drain
    if peers is not None:
        await closed(peers.stop())
    await closed(reloader.stop(drain * 0.6))
    clean = await daemon.stop(max(0.0, end - loop.time()))
    if flush is not None:
        await closed(asyncio.to_thread(flush))
    log.info("stopped", action="stop", clean=clean)
    if failure is not None:
        if not clean:
            log.error("the daemon ends, because a part of it failed", action="crash", exc_info=failure)
            _end_at_once(1)
        raise failure
    return clean


def _peers(daemon: Daemon, reloader: Reloader) -> Peers | None:
    """Registration of a daemon on its engine; None where all daemons run on one machine."""
    if (registry := registry_engine(daemon.loaded)) is None:
        return None
    requests = ReloadRequests(daemon.engines[registry])
    peers = Peers(requests, reloader.reload, lambda: daemon.loaded.version, daemon.web.peer_url)
    daemon.pauses.watch_reloads(registry, peers.read)
    daemon.status.show_peers(peers.others)
    return peers


async def _run(daemon: Daemon, ready_file: Path | None, stop: asyncio.Event, manager: ServiceManager) -> None:
    """Return when `stop` is set. Report the daemon as ready when it is. Raises: see `Daemon.wait`; BridgeError."""
    ending = asyncio.ensure_future(daemon.wait(stop))
    announcing = asyncio.ensure_future(_announce(daemon, ready_file, manager))
    try:
        await asyncio.wait([ending, announcing], return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await ending
    finally:
        await cancelled(ending, announcing)


async def _announce(daemon: Daemon, ready_file: Path | None, manager: ServiceManager) -> None:
    """Write the log line and the ready file, and report to systemd, when the daemon is ready for the first time.

    A reader who waits for the file finds the line. Raises: BridgeError.
    """
    await daemon.ready()
    log.info(f"ready, health at {daemon.url}/readyz", action="ready", url=daemon.url, config=daemon.loaded.version)
    if ready_file is not None:
        path = None if daemon.channel is None else str(daemon.channel.path)
        write_ready(ready_file, {"pid": os.getpid(), "http": daemon.url, "control": path})
    manager.ready(f"ready, health at {daemon.url}/readyz")


async def _reload_always(reloader: Reloader, wanted: asyncio.Event, manager: ServiceManager) -> None:
    """Reload the configuration whenever SIGHUP asks for it. Never returns."""
    while True:
        await wanted.wait()
        wanted.clear()
        manager.reloading()
        status = "the reload failed unexpectedly"
        try:
            answer = await reloader.reload("SIGHUP")
            status = f"configuration {answer['to']}, the last reload: {answer['result']}"
        except Exception as error:
            log.error(status, action="bug", exc_info=error)
        manager.ready(status)


async def _channel(daemon: Daemon) -> Control | None:
    """Start the control channel. None where it has no directory, or where callers cannot be identified.

    Raises: ConfigError when the configured directory cannot be used.
    """
    loaded = daemon.loaded
    if sys.platform != "linux":
        return None
    channel = control(loaded, [*daemon.routes, *shadow_routes(daemon.shadows)], streams=daemon.streams)
    try:
        for trail in trails(loaded):
            trail.narrow()
            settle(trail)
        await channel.start()
    except OSError as error:
        what = f"cannot open the control channel at {channel.path.parent}: {error.strerror}"
        if "state_dir" in loaded.config.ops.model_fields_set:
            raise ConfigError([loaded.locate(("ops", "state_dir"), what)]) from error
        log.warning(f"{what}; set `ops.state_dir` to another directory", action="control")
        return None
    return channel


def _stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        log.warning("second signal: the daemon ends at once", action="stop")
        os._exit(1)
    stop.set()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
