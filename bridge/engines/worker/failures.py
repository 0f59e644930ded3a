"""Failures of user code, in a form that the SDK can report.

The SDK's executors expect an Exception with a text. Any other exception (SystemExit, a `__str__` that raises, text that
is not UTF-8) escapes from them: it ends a thread of a pool, or the event loop of the SDK's worker, or its work never
ends.
"""

from __future__ import annotations

from typing import Any, NoReturn

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.sdk_internals import new_failure_details

MAX_MESSAGE = 16 * 1024
"""Characters of an exception's text that a copied exception keeps."""
MAX_DETAILS = 256 * 1024
"""Bytes of failure details above which an exception is copied with shorter text and without stack trace."""
MAX_CAUSES = 10
"""Number of an exception's causes that its copy keeps, equal to the number that the SDK reports."""


class CopiedFailure(Exception):
    """Base of the exceptions that replace one that the SDK cannot report. Each copy has the original's type name."""


def presentable(error: BaseException) -> Exception:
    """Return the exception itself when the SDK can report it, otherwise a copy with its type name, text and causes."""
    # The SDK treats a StopIteration as the end of an orchestrator.
    kind = type(error)
    if issubclass(kind, Exception) and not issubclass(kind, StopIteration) and _is_reportable(error):
        assert isinstance(error, Exception)
        return error
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < MAX_CAUSES and not any(cause is seen for seen in chain):
        chain.append(cause)
        cause = _cause(cause)
    copy: Exception | None = None
    for original in reversed(chain):
        inner, copy = copy, _copied(original)
        copy.__cause__ = inner
    assert copy is not None
    return copy


def reraise(error: BaseException) -> NoReturn:
    """Raise the `presentable` form of the exception that is being handled."""
    shown = presentable(error)
    try:
        if shown is error:
            raise
        raise shown
    finally:
        if shown is not error:
            shown.__context__ = None
        del shown, error  # otherwise exception and frame would keep each other alive


def failure_details(error: BaseException) -> pb.TaskFailureDetails:
    """Describe an exception that escaped from the SDK's executors. Never raises."""
    # An Exception escapes only while the SDK reports another one: its `__str__` raised, or its text is not UTF-8.
    reported = _cause(error) if issubclass(type(error), Exception) else None
    return new_failure_details(presentable(reported if reported is not None else error))


def shorten(details: pb.TaskFailureDetails) -> None:
    """Shorten the texts of a failure that is too large."""
    inner: pb.TaskFailureDetails | None = details
    while inner is not None and details.ByteSize() > MAX_DETAILS:
        if len(inner.errorMessage) > MAX_MESSAGE:
            inner.errorMessage = _cut(inner.errorMessage)
        inner.ClearField("stackTrace")
        inner = inner.innerFailure if inner.HasField("innerFailure") else None


def type_name(error: BaseException) -> str:
    """Name of an exception's type, as printable text. Never raises."""
    return _names(error)[1]


def _is_reportable(error: Any) -> bool:
    try:
        size: int = new_failure_details(error).ByteSize()
        return size <= MAX_DETAILS
    except BaseException:
        return False


def _cause(error: BaseException) -> BaseException | None:
    try:
        cause = error.__cause__
        return error.__context__ if cause is None else cause
    except BaseException:  # a subclass may hide them behind properties that raise
        return None


def _copied(error: BaseException) -> Exception:
    module, name = _names(error)
    text = text_of(error)
    if not issubclass(type(error), Exception):
        text = f"user code raised {name}" + (f": {text}" if text else "")
    kind = type(name.rpartition(".")[2], (CopiedFailure,), {"__module__": module, "__qualname__": name})
    copy: Exception = kind(text)
    traced = copy.with_traceback(error.__traceback__)
    return traced if _is_reportable(traced) else copy.with_traceback(None)


def _names(error: BaseException) -> tuple[str, str]:
    """Module and qualified name of an exception's type."""
    try:
        kind = type(error)
        return _printable(str(kind.__module__))[:200], _printable(str(kind.__qualname__))[:200] or "Exception"
    except BaseException:
        return "builtins", "Exception"


def text_of(error: BaseException) -> str:
    try:
        text = str.__str__(str(error))
    except BaseException as raised:
        return f"(no text: its __str__ raised {_names(raised)[1]})"
    return _printable(_cut(text))


def _cut(text: str) -> str:
    return f"{text[:MAX_MESSAGE]}… ({len(text)} characters)" if len(text) > MAX_MESSAGE else text


def _printable(text: str) -> str:
    """Escape lone surrogates of a text, as protocol buffers require."""
    return text.encode("utf-8", "backslashreplace").decode()
