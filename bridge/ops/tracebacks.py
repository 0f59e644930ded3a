"""Tracebacks without local variables, and without exception texts that may quote a payload or a secret."""

from __future__ import annotations

import logging
import re
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

from bridge.core.errors import BridgeError

_SPEAKING = (BridgeError, OSError, sqlite3.Error)
"""Classes whose texts name files, addresses and codes, never values of a message."""

_SPEAKING_PACKAGES = frozenset({"aiokafka", "azure", "grpc"})
"""Client packages of brokers and engines: their errors report the answer of a peer."""

_LONGEST_CHAIN = 20
_SHORTEST_VALUE = 4
"""Least characters of an exception argument that is searched: shorter ones occur in any word."""
WITHHELD = "(text withheld, it may quote a message)"


_RPC_ERROR = re.compile(
    r'<\w*RpcError of RPC that terminated with:\n\tstatus = StatusCode\.(\w+)\n\tdetails = "(.*?)"\n'
    r"(?:\tdebug_error_string = .*?\n)?>",
    re.DOTALL,
)


def shorten(text: str) -> str:
    """Text with errors of gRPC as `STATUS: details`, without their debug string of many lines."""
    return _RPC_ERROR.sub(r"\1: \2", text) if "RpcError of RPC" in text else text


def speaks(error: BaseException) -> bool:
    """Report if the text of an exception may be printed.

    Code of users and parsers puts values into its errors: `ValueError: invalid literal for int(): '...'`, or the key of
    a KeyError. Only classes that are known to contain no value are printed with their text.
    """
    return isinstance(error, _SPEAKING) or type(error).__module__.partition(".")[0] in _SPEAKING_PACKAGES


def describe(error: BaseException) -> str:
    """One line with the class, and with the text where it may be printed."""
    name = type(error).__qualname__
    if not speaks(error):
        return f"{name}: {WITHHELD}" if str(error) else name
    return f"{name}: {shorten(str(error))}" if str(error) else name


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exception hook of a command: the traceback on standard error, without texts that may quote a message."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"{render(error)}\n")


def render(error: BaseException) -> str:
    """Render the traceback of an exception and of its causes, oldest first."""
    parts: list[str] = []
    for cause, link in _chain(error):
        parts += traceback.format_tb(cause.__traceback__)
        parts.append(f"{describe(cause)}\n")
        if isinstance(cause, BaseExceptionGroup):
            for number, each in enumerate(cause.exceptions[:_LONGEST_CHAIN], 1):
                parts.append(f"  {number}: {describe(each)}\n")
                parts += traceback.format_tb(each.__traceback__)
        parts.append(link)
    return "".join(["Traceback (most recent call last):\n", *parts]).rstrip("\n")


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Causes and contexts, then the exception itself, each with the line before the next."""
    chain: list[tuple[BaseException, str]] = [(error, "")]
    seen = {id(error)}
    while len(chain) < _LONGEST_CHAIN:
        last = chain[-1][0]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or id(before) in seen:
            break
        seen.add(id(before))
        how = "led to" if last.__cause__ is not None else "was being handled when came"
        chain.append((before, f"\n{how}:\n\n"))
    return iter(reversed(chain))


def _quotations(error: BaseException) -> set[str]:
    """Texts by which a log message may quote an exception."""
    values = [each for each in (*error.args, *getattr(error, "__notes__", ())) if isinstance(each, str)]
    said = {str(error), *(each for each in values if len(each) >= _SHORTEST_VALUE)}
    return {repr(error), *said, *(repr(each)[1:-1] for each in said)} - {""}


def withhold(record: logging.LogRecord) -> None:
    """Remove the texts of exceptions from the message of a library's record. The record keeps the class. Errors of gRPC
    are shortened.

    Libraries write `logger.exception(error)`, `logger.warning("failed: %r", error)` and `f"failed: {error}"`.
    """
    at_hand = record.exc_info[1] if record.exc_info else sys.exc_info()[1]
    errors = [cause for cause, _ in _chain(at_hand)] if at_hand is not None else []
    arguments = record.args.values() if isinstance(record.args, dict) else record.args or ()
    errors += [each for each in (record.msg, *arguments) if isinstance(each, BaseException)]
    silent = [error for error in errors if not speaks(error)]
    calls = "RpcError" in str(record.msg) or any(type(error).__module__.startswith("grpc.") for error in errors)
    if not silent and not calls:
        return
    message = shorten(record.getMessage())
    for error in silent:
        for text in sorted(_quotations(error), key=len, reverse=True):
            message = message.replace(text, type(error).__qualname__)
    record.msg, record.args = message, ()
    record.__dict__.pop("message", None)  # left by another handler
