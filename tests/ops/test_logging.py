"""What a log line looks like, and what it never holds."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from bridge.ops.logging import configure, get_logger

PROGRAM = """
import sys, threading
from bridge.ops.logging import configure
configure("info", "json")
def fail(payload):
    raise ValueError("broken")
if sys.argv[1] == "thread":
    thread = threading.Thread(target=fail, args=("SECRET",), name="worker-1"); thread.start(); thread.join()
else:
    fail("SECRET")
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_its_fields_first_and_in_order() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    get_logger("bridge.source").info("source held", source="orders", action="hold", attempts=3)
    (line,) = lines(stream)
    assert list(line) == ["ts", "level", "logger", "action", "event", "source", "attempts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert line["level"] == "info"
    assert (line["logger"], line["action"], line["event"]) == ("bridge.source", "hold", "source held")
    assert (line["source"], line["attempts"]) == ("orders", 3)


def test_loggers_made_before_the_configuration_follow_it() -> None:
    early = structlog.get_logger("bridge.early")
    stream = io.StringIO()
    configure("info", "json", stream)
    early.warning("late", action="x")
    later = io.StringIO()
    configure("info", "json", later)
    early.warning("later", action="x")
    assert [line["event"] for line in lines(stream)] == ["late"]
    assert [line["event"] for line in lines(later)] == ["later"]


def test_the_standard_library_speaks_the_same_way() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("other").warning("slow by %d ms", 5, extra={"action": "wait", "topic": "orders"})
    (line,) = lines(stream)
    assert (line["level"], line["logger"], line["event"]) == ("warning", "other", "slow by 5 ms")
    assert (line["action"], line["topic"]) == ("wait", "orders")


@pytest.mark.parametrize("name", ["durabletask-worker", "bridge.sdk.default.client", "grpc", "aiohttp.access"])
def test_libraries_are_heard_from_warning_on(name: str) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in lines(stream)] == ["trouble"]


def test_levels_hold() -> None:
    stream = io.StringIO()
    configure("warning", "json", stream)
    get_logger("bridge").info("no")
    logging.getLogger("other").info("no")
    get_logger("bridge").warning("yes")
    configure("debug", "json", stream)
    get_logger("bridge").debug("also")
    assert [line["event"] for line in lines(stream)] == ["yes", "also"]


def test_exceptions_are_fields() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)

    def fail(payload: str) -> None:
        raise ValueError("broken")

    for logger in (get_logger("bridge"), logging.getLogger("other")):
        try:
            fail("SECRET")
        except ValueError:
            logger.exception("failed")
    for line in lines(stream):
        assert (line["level"], line["event"], line["error"]) == ("error", "failed", "ValueError")
        assert "in fail" in line["traceback"]
        assert "ValueError: broken" in line["traceback"]
        assert "exc_info" not in line
    assert len(lines(stream)) == 2


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    configure("info", "auto", stream)
    get_logger("bridge.source").info("source held", action="hold", source="orders")
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}Z \[info *\] source held .*action=hold.*source=orders", text)


def test_no_terminal_gets_json_unless_told() -> None:
    stream = io.StringIO()
    configure("info", "auto", stream)
    get_logger("bridge").info("one")
    assert lines(stream)[0]["event"] == "one"
    plain = io.StringIO()
    configure("info", "human", plain)
    get_logger("bridge").info("one")
    assert "\x1b" not in plain.getvalue()
    assert "one" in plain.getvalue()


def test_tracebacks_never_show_local_variables() -> None:
    for form, stream in (("human", Terminal()), ("human", io.StringIO()), ("json", io.StringIO())):
        configure("info", form, stream)  # type: ignore[arg-type]  # a literal by construction

        def fail(payload: str) -> None:
            raise ValueError("broken")

        try:
            fail("SE" + "CRET")
        except ValueError:
            get_logger("bridge").exception("failed")
        assert "SECRET" not in stream.getvalue()
        assert "broken" in stream.getvalue()


def test_whatever_is_logged_a_line_comes_out() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    get_logger("bridge").info("odd", a="\ud800", b=2**70, c={1: object()}, d=b"\xff", e=float("nan"))
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("where", ["main", "thread"])
def test_uncaught_exceptions_are_json_too(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, where], capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert (line["level"], line["action"], line["error"]) == ("error", "crash", "ValueError")
    assert "in fail" in line["traceback"]
    assert "SECRET" not in done.stderr.replace('"SECRET"', "")
    assert done.returncode == (1 if where == "main" else 0)
