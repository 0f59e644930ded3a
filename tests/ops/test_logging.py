"""Format of log lines, and data that they never contain."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.errors import EngineUnavailable
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
    logging.getLogger(name).warning("a warning")
    assert [line["event"] for line in lines(stream)] == ["a warning"]


@pytest.mark.parametrize(
    "name", ["aiokafka.conn", "azure.servicebus._pyamqp", "httpcore.http11", "bridge.sdk.x", "new"]
)
def test_no_level_lets_debug_records_of_libraries_through(name: str) -> None:
    """Levels that a library or workflow code sets on the logger itself have no effect either."""
    stream = io.StringIO()
    logger = logging.getLogger(name)
    try:
        for own in (logging.NOTSET, logging.DEBUG):
            logger.setLevel(own)
            configure("debug", "json", stream)
            logger.debug("a frame")
            logger.info("chatter")
            configure("debug", "json", stream, libraries="info")
            logger.debug("a frame")
        assert not lines(stream)
        logger.info("chatter")
        assert [line["event"] for line in lines(stream)] == ["chatter"]
        logging.getLogger("bridge.x").debug("ours")
        assert lines(stream)[-1]["event"] == "ours"
    finally:
        logger.setLevel(logging.NOTSET)


def test_workflow_modules_follow_the_level() -> None:
    stream = io.StringIO()
    configure("debug", "json", stream, own={"flows"})
    logging.getLogger("flows.orders").debug("ours")
    logging.getLogger("flowsx").info("not ours")
    assert [line["event"] for line in lines(stream)] == ["ours"]


def _fail() -> None:
    try:
        {}["PAY" + "LOAD"]  # type: ignore[index]  # wider than its annotation, on purpose
    except KeyError as error:
        raise ValueError("PAY" + "LOAD") from error


def test_texts_of_exceptions_are_withheld_wherever_a_library_puts_them() -> None:
    stream = io.StringIO()
    configure("debug", "json", stream)
    for name in ("library", "bridge.sdk.default.worker", "asyncio"):
        logger = logging.getLogger(name)
        try:
            _fail()
        except ValueError as error:
            logger.exception(error)
            logger.exception("failed: %s", error)
            logger.error("failed: %r", error)
            logger.error(f"failed: {error}")
            logger.warning("caused by %(cause)r", {"cause": error.__cause__})
            logger.error("Task exception was never retrieved\nfuture: <Task exception=%s>", repr(error))
            kept = error
        logger.error("later", exc_info=kept)
        logger.error("later", exc_info=(type(kept), kept, None))
    assert len(lines(stream)) == 24
    assert "PAYLOAD" not in stream.getvalue()
    assert stream.getvalue().count("ValueError") > 20


def test_texts_that_name_no_value_stay() -> None:
    for form, stream in (("json", io.StringIO()), ("human", io.StringIO())):
        configure("info", form, stream)  # type: ignore[arg-type]  # a literal by construction
        try:
            try:
                open("/nowhere/at/all")  # noqa: SIM115, PTH123 - fails
            except OSError as error:
                raise EngineUnavailable("engine 'x': gone") from error
        except EngineUnavailable:
            get_logger("bridge").exception("failed")
        text = stream.getvalue()
        assert "No such file or directory: '/nowhere/at/all'" in text
        assert "EngineUnavailable: engine 'x': gone" in text
        assert text.index("/nowhere/at/all'") < text.index("EngineUnavailable: engine")


def test_chains_and_groups_end() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    first, second = ValueError("PAY" + "LOAD"), KeyError("PAY" + "LOAD")
    first.__cause__, second.__cause__ = second, first
    get_logger("bridge").error("circle", exc_info=first)
    error = ValueError("PAY" + "LOAD")
    for _ in range(1000):
        after = ValueError("PAY" + "LOAD")
        after.__cause__ = error
        error = after
    get_logger("bridge").error("long", exc_info=error)
    get_logger("bridge").error("group", exc_info=ExceptionGroup("PAY" + "LOAD", [OSError(2, "gone"), first]))
    assert "PAYLOAD" not in stream.getvalue()
    assert "1: FileNotFoundError: [Errno 2] gone" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) < 10_000


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
        assert "ValueError: (text withheld, it may quote a message)" in line["traceback"]
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


class _Own(Exception):
    def __str__(self) -> str:
        return f"{self.args[0]}!"


FORMS: tuple[Callable[[logging.Logger, BaseException], None], ...] = (
    lambda logger, error: logger.exception(error),
    lambda logger, error: logger.error("failed: %s", error),
    lambda logger, error: logger.error("failed: %r", error),
    lambda logger, error: logger.error("failed: %r", str(error)),
    lambda logger, error: logger.error("failed: %s", error.args),
    lambda logger, error: logger.error(f"failed: {error}"),
    lambda logger, error: logger.warning("failed: %(why)s", {"why": error}),
    lambda logger, error: logger.warning("failed", exc_info=error),
    lambda logger, error: logger.error("failed:\n%s", traceback.format_exc()),
)
TEXT = st.builds(lambda before, after: f"{before}PAYLOAD-1{after}", st.text(max_size=8), st.text(max_size=8))


@settings(deadline=None)
@given(TEXT, st.sampled_from((ValueError, KeyError, LookupError, _Own)), st.sampled_from(FORMS), st.booleans())
def test_no_form_of_a_library_shows_what_an_exception_says(
    text: str, kind: type[Exception], log: Callable[[logging.Logger, BaseException], None], noted: bool
) -> None:
    stream = io.StringIO()
    configure("debug", "json", stream, libraries="info")
    try:
        error = kind(text)
        if noted:
            error.add_note(f"about {text}")
        raise error
    except Exception as caught:
        log(logging.getLogger("library"), caught)
    assert "PAYLOAD-1" not in stream.getvalue()


def test_a_bug_of_a_command_shows_no_text(tmp_path: Path) -> None:
    program = "from bridge.cli import main, root\nroot.invoke = lambda ctx: {}['PAY' + 'LOAD']\nmain()\n"
    done = subprocess.run([sys.executable, "-c", program, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "KeyError: (text withheld" in done.stderr
    assert "PAYLOAD" not in done.stderr


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_grpc_is_one_line_without_its_debug_string(asynchronous: bool) -> None:
    import grpc
    import grpc.aio

    if asynchronous:
        nothing = grpc.aio.Metadata()
        error: Exception = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "refused", "debug")
    else:
        with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a/b")(b"", timeout=5)
        error = caught.value
    stream = io.StringIO()
    configure("info", "json", stream)
    library = logging.getLogger("bridge.sdk.default.worker")
    library.warning(f"Failed to create connection: {error}")
    library.warning("Failed to create connection: %s", error)
    library.warning("failed", exc_info=error)
    first, second, third = lines(stream)
    assert first["event"] == second["event"]
    assert re.fullmatch(r"Failed to create connection: (UNAVAILABLE|DEADLINE_EXCEEDED): [^\n]+", first["event"])
    assert "debug_error_string" not in json.dumps((first, second, third))
    assert re.search(r"RpcError: (UNAVAILABLE|DEADLINE_EXCEEDED): ", third["traceback"])


def test_single_loggers_have_their_own_level() -> None:
    stream = io.StringIO()
    configure("error", "json", stream, levels={"bridge.daemon": "debug", "aiokafka": "info", "aiokafka.conn": "error"})
    for name in ("bridge.daemon", "bridge.source", "aiokafka.client", "aiokafka.conn", "azure.core"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "said")
    get_logger("bridge.daemon").debug("a line")
    get_logger("bridge.source").debug("a line")
    found = [(line["logger"], line["level"]) for line in lines(stream)]
    assert found == [
        ("bridge.daemon", "debug"), ("bridge.daemon", "info"), ("bridge.daemon", "warning"),
        ("aiokafka.client", "info"), ("aiokafka.client", "warning"), ("bridge.daemon", "debug"),
    ]  # fmt: skip
    configure("error", "json", later := io.StringIO())
    logging.getLogger("bridge.daemon").info("said")
    logging.getLogger("aiokafka.client").warning("said")
    assert not later.getvalue()


def test_no_level_shows_debug_records_of_a_library() -> None:
    stream = io.StringIO()
    configure("debug", "json", stream, levels={"aiokafka": "debug", "bridge.sdk": "debug"})
    for name in ("aiokafka.conn", "bridge.sdk.default"):
        logging.getLogger(name).debug("password")
        logging.getLogger(name).info("shown")
    assert [line["event"] for line in lines(stream)] == ["shown", "shown"]
