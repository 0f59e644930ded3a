"""Loggers for the SDK's clients and workers."""

from __future__ import annotations

import logging

from bridge.engines.worker.failures import presentable


class _WithoutStops(logging.Filter):
    """Filter that drops the warning with which the SDK's worker reports that its own `stop` cancelled the stream."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (text.startswith("Error in work item stream") and "CANCELLED" in text)


class _Printable(logging.Filter):
    """Filter that replaces exceptions that cannot be printed, or whose text is too long.

    The SDK logs exceptions of entities unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, BaseException):
            record.msg = presentable(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            shown = presentable(record.exc_info[1])
            record.exc_info = (type(shown), shown, shown.__traceback__)
        return True


_PRINTABLE = _Printable()
_WITHOUT_STOPS = _WithoutStops()


def quiet_logger(name: str) -> logging.Logger:
    """Create a logger for the SDK at level WARNING, because its clients and workers log every call at INFO."""
    logger = logging.getLogger(f"bridge.sdk.{name}")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_PRINTABLE)
    logger.addFilter(_WITHOUT_STOPS)
    return logger
