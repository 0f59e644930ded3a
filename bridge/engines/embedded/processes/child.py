"""Loop of a worker process: reads work from the channel, runs it in pools of threads, and sends results in frames."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import NoReturn

from durabletask.serialization import DataConverter

from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import Item
from bridge.engines.embedded.processes.messages import ItemKind, json_body, parse_json
from bridge.engines.embedded.processes.process_worker import ChannelStub, Outbox, ProcessWorker, SlotRecord
from bridge.engines.embedded.processes.reports import Reporter
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.worker.failures import text_of, type_name
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.workflows import Workflows

logger = logging.getLogger("bridge.engines.embedded.processes")


def end_at_once(code: int = 0) -> NoReturn:
    """End the process, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


def run(
    channel_descriptor: int,
    slots_descriptor: int,
    prepare: Callable[[ProcessSettings], Callable[[], object]],
    load: Callable[[ProcessSettings], Workflows],
    converter: Callable[[], DataConverter],
    figures: Callable[[], Mapping[str, int]],
) -> NoReturn:
    """Run a worker until the daemon stops it or goes away.

    prepare: sets up logs and traces; returns a function that is called at the end. load: imports the workflows.
    figures: counters of the process for its reports.
    """
    # The daemon alone stops its workers: a terminal or a service manager signals all processes of a group.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    for descriptor in (channel_descriptor, slots_descriptor):
        os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=channel_descriptor))
    _end_after(lambda: _run(channel, slots_descriptor, prepare, load, converter, figures))


def _end_after(call: Callable[[], None]) -> NoReturn:
    """End the process when the call returns. Its exception is logged."""
    try:
        call()
    except BaseException as error:
        logger.error("A worker process ends: %s", type_name(error), exc_info=error)
        end_at_once(1)
    end_at_once()


def _run(
    channel: Channel,
    slots_descriptor: int,
    prepare: Callable[[ProcessSettings], Callable[[], object]],
    load: Callable[[ProcessSettings], Workflows],
    converter: Callable[[], DataConverter],
    figures: Callable[[], Mapping[str, int]],
) -> None:
    items = channel.receive()
    if not items or items[0][0] != ItemKind.SETUP:
        return
    try:
        settings = ProcessSettings.parse(parse_json(items[0][1]))
        finish = prepare(settings)
        settings.limit_memory()
        workflows = load(settings)
    except BaseException as error:
        channel.send_all([(ItemKind.FAILED, json_body({"reason": f"{type_name(error)}: {text_of(error)}"}))])
        return
    outbox = Outbox(channel, end_at_once)
    worker = ProcessWorker(
        settings,
        SlotRecord(slots_descriptor),
        outbox,
        logger=quiet_logger(f"{settings.engine}.worker"),
        data_converter=converter(),
    ).add_workflows(workflows, stuck_after=settings.stuck_after, versions=settings.versions)
    worker.start_pools(ChannelStub(worker, outbox))
    worker.mark_running()
    outbox.start()
    outbox.put((ItemKind.READY, json_body({"pid": os.getpid()})))
    reporter = Reporter(worker, figures, outbox.put)
    reporter.start()

    def stop() -> None:
        worker.stop_pools()
        reporter.stop()
        outbox.stop()
        finish()

    stopping = threading.Thread(target=_end_after, args=(stop,), name="stop", daemon=True)
    waiting: list[Item] | None = items[1:]
    while waiting is not None:
        for kind, body in waiting:
            if kind == ItemKind.STOP:
                if stopping.ident is None:
                    stopping.start()
            else:  # also while it stops: the worker returns the item
                worker.take_item(kind, body)
        worker.end_expected()
        waiting = channel.receive(worker.expect)
