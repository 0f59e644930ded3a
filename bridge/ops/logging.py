"""Structured logs: readable text on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Collection, Mapping, MutableMapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from bridge.core.bytetext import escape_invisible
from bridge.ops import tracebacks
from bridge.system.log_context import current_fields
from bridge.system.log_defaults import FORMAT, LIBRARIES

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "human", "json"]

_SDK = "bridge.sdk"
"""Name of the loggers given to the SDK: a library's loggers, under a name of the bridge."""
_LEADING = ("ts", "level", "logger", "action", "event")


def configure(
    level: Level,
    format: LogFormat = FORMAT,  # noqa: A002 - the setting's name
    stream: TextIO | None = None,
    *,
    libraries: Level = LIBRARIES,
    own: Collection[str] = (),
    levels: Mapping[str, Level] | None = None,
) -> None:
    """Send structlog's and the standard library's logs through one formatter to `stream` (default: standard error).

    level: level of the bridge's loggers, and of those below the packages in `own`.
    libraries: level of all other loggers, never lower than `level`. A library's debug records contain frames, passwords
    and payloads: no value of `level` includes them.
    levels: levels of single loggers and of those below them. A library's loggers write no debug records.
    Uncaught exceptions, those of threads included, are logged with their traceback. May be called again.
    """
    stream = sys.stderr if stream is None else stream
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            _add_time,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Each logger of the standard library has a level of its own
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET if levels else level),
        cache_logger_on_first_use=False,
    )
    tops = {"bridge", *own}
    numbers = logging.getLevelNamesMapping()
    least = max(numbers[each.upper()] for each in (level, libraries))
    single = {name: numbers[each.upper()] for name, each in (levels or {}).items()}
    quiet = {name: max(number, logging.INFO) for name, number in single.items() if is_library(name, tops)}
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(format == "human" or (format == "auto" and stream.isatty()), stream.isatty()))
    handler.addFilter(_Libraries(tops, max(least, logging.INFO), quiet))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(least)
    _set_levels(dict.fromkeys(tops, numbers[level.upper()]), single | quiet)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _common() -> list[Processor]:
    """Processors of all records."""
    return [
        structlog.contextvars.merge_contextvars,
        _add_context,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]


def _formatter(human: bool, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    """Formatter of records of structlog and of the standard library: text for people, or JSON lines."""
    render: list[Processor] = [_add_exception, _order, structlog.processors.JSONRenderer(serializer=_to_json)]
    if human:
        console = structlog.dev.ConsoleRenderer(
            colors=colors,
            timestamp_key="ts",
            pad_event_to=0,
            # structlog's default shows local variables, which contain payload
            exception_formatter=_write_exception,
        )
        render = [_shorten_time, console]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_common(), structlog.stdlib.ExtraAdder(), _add_time],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )


def _set_levels(tops: Mapping[str, int], single: Mapping[str, int]) -> None:
    """Set the levels of loggers. single: of those that have one of their own; others lose an earlier one."""
    for name in _single - single.keys() - tops.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, number in (*tops.items(), *single.items()):
        logging.getLogger(name).setLevel(number)
    _single.clear()
    _single.update(single)


_single: set[str] = set()
"""Loggers with a level of their own."""


def is_library(name: str, own: Collection[str]) -> bool:
    """True when a logger belongs to a library. own: top-level packages whose loggers do not."""
    return name.partition(".")[0] not in own or f"{name}.".startswith(f"{_SDK}.")


def get_logger(name: str) -> FilteringBoundLogger:
    """Logger with fields as keywords: `log.info("source held", action="hold", source="orders")`. Never pass payload."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _Libraries(logging.Filter):
    """Filter that limits libraries to their level, whatever a logger was set to, and withholds quoted texts."""

    def __init__(self, own: Collection[str], least: int, single: Mapping[str, int]) -> None:
        super().__init__()
        self._own = frozenset(own)
        self._least = least
        self._single = sorted(single.items(), key=lambda each: -len(each[0]))
        """Levels of single loggers. The nearest parent comes first."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not is_library(record.name, self._own):
            return True
        name = f"{record.name}."
        least = next((level for parent, level in self._single if name.startswith(f"{parent}.")), self._least)
        if record.levelno < least:
            return False
        tracebacks.withhold(record)
        return True


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


def _add_context(_: Any, __: str, fields: Fields) -> Fields:
    for name, value in current_fields().items():
        fields.setdefault(name, value)
    return fields


def _add_time(_: Any, __: str, fields: Fields) -> Fields:
    record = fields.get("_record")
    now = record.created if record is not None else time.time()
    whole = int(now)
    fields["ts"] = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((now - whole) * 1000):03d}Z"
    return fields


def _shorten_time(_: Any, __: str, fields: Fields) -> Fields:
    """Replace the UTC time of JSON lines by the local time of day with its offset."""
    local = datetime.fromisoformat(str(fields["ts"])).astimezone()
    fields["ts"] = local.isoformat(timespec="milliseconds").replace("+00:00", "Z")[11:]
    return fields


def _add_exception(_: Any, __: str, fields: Fields) -> Fields:
    info = fields.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    elif isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[1] is not None:
        fields["error"] = type(info[1]).__name__
        fields["traceback"] = tracebacks.render(info[1])
    return fields


def _write_exception(stream: TextIO, info: tuple[type[BaseException], BaseException, TracebackType | None]) -> None:
    stream.write(f"\n{tracebacks.render(info[1])}")


def _order(_: Any, __: str, fields: Fields) -> Fields:
    return {name: fields.pop(name) for name in _LEADING if name in fields} | dict(fields)


def _to_json(fields: Any, **_: Any) -> str:
    try:
        text = orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        return text if text.isprintable() else escape_invisible(text)
    except (TypeError, UnicodeEncodeError):
        # Lone surrogates, or integers of more than 64 bits: a log line must never fail
        return orjson.dumps({str(name): ascii(value) for name, value in fields.items()}).decode()
