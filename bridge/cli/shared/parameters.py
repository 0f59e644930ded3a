"""Types of command-line values. Each error states the problem and the correct form."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from bridge.system.files import FileTooLarge


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


LARGEST_INPUT = 256 * 1024 * 1024
"""Bytes of the largest message or value that a command reads: a device may never end."""


def read_input(stream: IO[bytes]) -> bytes:
    """Read a stream to its end. Raises: FileTooLarge for more than `LARGEST_INPUT` bytes."""
    data = stream.read(LARGEST_INPUT + 1)
    if len(data) > LARGEST_INPUT:
        raise FileTooLarge(LARGEST_INPUT)
    return data


def read_file_or_input(name: str) -> bytes:
    """Content of a file, `-` is standard input. Raises: OSError, FileTooLarge as `read_input`."""
    if name == "-":
        return read_input(sys.stdin.buffer)
    with Path(name).open("rb") as stream:
        return read_input(stream)


class JsonType(click.ParamType[Any]):
    """JSON text, `@FILE`, or `@-` for standard input. Returns the parsed value; an envelope in it must be valid."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if text.startswith("@"):
            try:
                text = read_file_or_input(text[1:]).decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8"
                self.fail(f"{text[1:]}: {reason}", param, ctx)
        try:
            parsed = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno} column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            self.fail(f"not JSON{where}; text needs its quotes too, like '\"text\"'; a file is @FILE", param, ctx)
        from bridge.core.origin import UnknownEnvelope, check

        try:
            check(parsed)
        except UnknownEnvelope as error:
            self.fail(str(error), param, ctx)
        return parsed


class BodyType(click.ParamType[Any]):
    """Text of a message, `@FILE`, or `@-` for standard input; `@@` begins a text with `@`. Returns bytes."""

    name = "body"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        text = str(value)
        if not text.startswith("@") or text.startswith("@@"):
            return text.removeprefix("@").encode() if text.startswith("@@") else text.encode()
        try:
            return read_file_or_input(text[1:])
        except OSError as error:
            what = f"{text[1:] or 'the file'}: {error.strerror}; a text that begins with @ is written @@"
            self.fail(what, param, ctx)


class TimeType(click.ParamType[Any]):
    """RFC 3339 time, or a duration before now. Returns an aware UTC time."""

    name = "time"

    def __init__(self, *, ago: bool = True) -> None:
        self._ago = ago

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        from bridge.core.errors import InvalidCommand
        from bridge.routing.identifier import parse_time

        text = str(value)
        try:
            return parse_time(text, "the time")
        except InvalidCommand:
            pass
        if self._ago:
            try:
                return datetime.now(UTC) - timedelta(seconds=_seconds(text))
            except (ValueError, OverflowError):
                pass
        also = ", or a duration like 2h for two hours ago" if self._ago else ""
        raise click.BadParameter(f"{text!r} is not an RFC 3339 time like 2030-01-31T08:00:00Z{also}", ctx, param)


class DurationType(click.ParamType[Any]):
    """Duration such as `30s` or `1h30m`. Returns seconds."""

    name = "duration"

    def __init__(self, least: str = "0s", most: str | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = _seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < _seconds(self._least):
            self.fail(f"{value} is too short; the least value is {self._least}", param, ctx)
        if self._most is not None and seconds > _seconds(self._most):
            self.fail(f"{value} is too long; the greatest value is {self._most}", param, ctx)
        return seconds


class RouteRateType(click.ParamType[Any]):
    """Rate, of one route where a name comes before it: `100/s`, `orders=5/m`. The value is (name or None, times a
    second).
    """

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        from bridge.config.model.types import parse_rate

        route, equals, rate = value.rpartition("=")
        try:
            return route if equals else None, parse_rate(rate)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RateType(click.ParamType[Any]):
    """Rate such as `100/s` or `6000/m`; a number alone is per second. Returns times a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from bridge.config.model.types import parse_rate

        text = str(value)
        try:
            return parse_rate(text if "/" in text else f"{text}/s")
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RampType(click.ParamType[Any]):
    """Sizes of the first steps of a job, such as `1,10,100`. Returns a tuple."""

    name = "ramp"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.isascii() and part.isdigit() and int(part) for part in parts) or len(parts) > 20:
            self.fail(f"{value!r} must be at most 20 sizes of steps, like 1,10,100", param, ctx)
        return tuple(map(int, parts))


class SizeType(click.ParamType[Any]):
    """Size such as `4096`, `64KiB` or `1MiB`. Returns bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from bridge.config.model.types import parse_size

        try:
            return parse_size(int(value) if str(value).isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _seconds(text: str) -> float:
    from bridge.config.model.types import parse_duration

    return parse_duration(text)


class PairType(click.ParamType[Any]):
    """Pair `NAME=VALUE`. Returns both parts."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} must have the form NAME=VALUE", param, ctx)
        return name, text


class StatusType(click.ParamType[Any]):
    """Runtime status of an orchestration, in upper or lower case."""

    name = "status"
    words = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "FAILED", "TERMINATED", "CONTINUED_AS_NEW")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word = str(value).upper().replace("-", "_")
        if word not in self.words:
            self.fail(f"{value!r} is not one of {', '.join(self.words).lower()}", param, ctx)
        return word


OUTCOMES = ("completed", "compensated", "compensation_failed", "failed", "terminated")
"""Outcomes of sagas, as of `bridge.engines.sagas`, whose import takes long."""


class EntityIdType(click.ParamType[Any]):
    """Entity id `NAME@KEY`, as in lists of entities. Returns both parts."""

    name = "entity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, at, key = str(value).removeprefix("@").partition("@")
        if not name or not at or not key:
            self.fail(f"{value!r} must have the form NAME@KEY, like account@c-17", param, ctx)
        return name, key


class AddressType(click.ParamType[Any]):
    """Address `HOST:PORT`; port 0 selects a free one. Returns the text."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, colon, port = str(value).rpartition(":")
        if not host or not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            self.fail(f"{value!r} must have the form HOST:PORT, like 127.0.0.1:8080", param, ctx)
        return str(value)


class LogLevelType(click.ParamType[Any]):
    """Log level, or `LOGGER=LEVEL`. Returns the logger, empty for the level of the whole log, and the level."""

    name = "log level"
    levels = ("debug", "info", "warning", "error")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        logger, equals, level = str(value).rpartition("=")
        if level not in self.levels or bool(logger) != bool(equals):
            self.fail(f"{value!r} must be LEVEL or LOGGER=LEVEL; levels: {', '.join(self.levels)}", param, ctx)
        return logger, level


JSON = JsonType()
BODY = BodyType()
ADDRESS = AddressType()
SINCE = TimeType()
AT = TimeType(ago=False)
DURATION = DurationType()
PAUSE = DurationType(least="100ms")
"""Duration of a pause or of a time limit. Without a pause, a repeated command would use a whole processor."""
RATES = RouteRateType()
RATE = RateType()
RAMP = RampType()
SIZE = SizeType()
HEADER = PairType("header")
TAG = PairType("tag")
STATUS = StatusType()
LOG_LEVEL = LogLevelType()
ENTITY = EntityIdType()
