"""Structured logs: for people on a terminal, JSON lines anywhere else."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "human", "json"]

_QUIET = ("aiohttp", "asyncio", "azure", "bridge.sdk", "durabletask", "grpc", "msal", "urllib3")
_LEADING = ("ts", "level", "logger", "action", "event")


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Send structlog's and the standard library's logs through one formatter to `stream` (default: standard error).

    Libraries are heard from warning on, at level debug from debug on. Uncaught exceptions, those of threads
    included, are logged with their traceback. May be called again.
    """
    stream = sys.stderr if stream is None else stream
    human = format == "human" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_time,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            _add_time,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    render: list[Processor] = (
        [
            _shorten_time,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                timestamp_key="ts",
                pad_event_to=0,
                # The default one shows local variables, and those hold payload
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
        if human
        else [_add_exception, _order, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    if level != "debug":
        handler.addFilter(_is_worth_hearing)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger; fields are keywords: `log.info("source held", action="hold", source="orders")`. Never pass payload."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def _is_worth_hearing(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not record.name.startswith(_QUIET)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger("bridge").error("uncaught exception", action="crash", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    get_logger("bridge").error(
        "uncaught exception in a thread",
        action="crash",
        thread=args.thread.name if args.thread else None,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )


Fields = MutableMapping[str, Any]


def _add_time(_: Any, __: str, fields: Fields) -> Fields:
    record = fields.get("_record")
    now = record.created if record is not None else time.time()
    whole = int(now)
    fields["ts"] = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((now - whole) * 1000):03d}Z"
    return fields


def _shorten_time(_: Any, __: str, fields: Fields) -> Fields:
    fields["ts"] = str(fields["ts"])[11:]
    return fields


def _add_exception(_: Any, __: str, fields: Fields) -> Fields:
    info = fields.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    elif isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        fields["error"] = info[0].__name__
        fields["traceback"] = structlog.processors.ExceptionRenderer()(None, "", {"exc_info": info})["exception"]
    return fields


def _order(_: Any, __: str, fields: Fields) -> Fields:
    return {name: fields.pop(name) for name in _LEADING if name in fields} | dict(fields)


def _to_json(fields: Any, **_: Any) -> str:
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, UnicodeEncodeError):
        # Lone surrogates, or integers of more than 64 bits: a log line must never be the thing that fails
        return orjson.dumps({str(name): ascii(value) for name, value in fields.items()}).decode()
