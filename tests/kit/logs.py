"""Logs of the tests: lines on the real standard error, apart from the output of commands that run in a test's process.

structlog's own default colours each line and draws tables of the local variables of each traceback.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.format_exc_info,
    structlog.processors.LogfmtRenderer(key_order=["level", "event"], bool_as_flag=False),
]


def configure() -> None:
    structlog.reset_defaults()
    structlog.configure(processors=_PROCESSORS, logger_factory=structlog.WriteLoggerFactory(sys.__stderr__))


@contextmanager
def restored() -> Iterator[None]:
    """Undo what a block does to the logs of the process: a daemon, or a command, configures them for itself."""
    root = logging.getLogger()
    handlers, hooks = list(root.handlers), (sys.excepthook, threading.excepthook)
    levels = {name: each.level for name, each in _loggers()}
    level = root.level
    yield
    if structlog.get_config()["processors"] is _PROCESSORS:
        return
    configure()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, each in _loggers():
        level = levels.get(name, logging.NOTSET)
        if each.level != level:  # to set one clears the caches of all of them
            each.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = list(logging.root.manager.loggerDict.items())
    return [(name, each) for name, each in known if isinstance(each, logging.Logger)]
