"""Containment of user code: orchestrators, activities and converters raise only exceptions that the SDK can report."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any

from durabletask.serialization import DataConverter

from bridge.core.histogram import LONG_SECONDS, Histogram
from bridge.engines.sdk_internals import OutputNotEncodable
from bridge.engines.worker.async_activities import in_loop
from bridge.engines.worker.failures import reraise, text_of, type_name
from bridge.system.forks import end_child, generation
from bridge.system.otel_context import current_sampled_trace

logger = logging.getLogger("bridge.engines.containment")


class WorkerStats:
    """Work that a worker has done since it was created. Thread-safe.

    activities: durations by name and result, `completed` or `failed`.
    replays: turns that ran an orchestrator again from its history.
    """

    def __init__(self) -> None:
        self.activities: dict[tuple[str, str], Histogram] = {}
        self.replays = 0
        self._lock = threading.Lock()

    def run(self, name: str, result: str, seconds: float, trace_id: str | None = None) -> None:
        """Count an activity. trace_id: its sampled trace; None without one."""
        with self._lock:
            histogram = self.activities.get((name, result))
            if histogram is None:
                histogram = self.activities[name, result] = Histogram(LONG_SECONDS)
            histogram.observe(seconds)
            if trace_id is not None:
                histogram.example(seconds, trace_id, time.time())

    def replay(self, number: int = 1) -> None:
        """Count replays."""
        with self._lock:
            self.replays += number

    def add(self, name: str, result: str, durations: Histogram) -> None:
        """Count the activities of another process."""
        with self._lock:
            histogram = self.activities.setdefault((name, result), Histogram(LONG_SECONDS))
            histogram.add(durations)

    def take(self) -> WorkerStats:
        """Return what was counted, and start again at zero."""
        taken = WorkerStats()
        with self._lock:
            taken.activities, self.activities = self.activities, {}
            taken.replays, self.replays = self.replays, 0
        return taken


class Encoded:
    """Value that is already serialized."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class ContainedConverter(DataConverter):
    """Data converter that raises only exceptions that the SDK can report, and returns only text that can be sent."""

    def __init__(self, inner: DataConverter) -> None:
        self._inner = inner

    def serialize(self, value: Any) -> str | None:
        if type(value) is Encoded:
            return value.text
        try:
            text = self._inner.serialize(value)
            if text is not None and not text.isascii():
                text.encode()  # lone surrogates
        except BaseException as error:
            reraise(error)
        return text

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        try:
            return self._inner.deserialize(data, target_type)
        except BaseException as error:
            reraise(error)

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        try:
            return self._inner.coerce(value, target_type)
        except BaseException as error:
            reraise(error)

    def can_reconstruct(self, target_type: Any) -> bool:
        try:
            return self._inner.can_reconstruct(target_type)
        except BaseException as error:
            reraise(error)


def contained_orchestrator(function: Callable[..., Any], converter: DataConverter) -> Callable[..., Any]:
    """Wrap an orchestrator to raise only exceptions that the SDK can report.

    The SDK then releases the orchestrator's locks and keeps its actions. The wrapper serializes the result itself,
    because the SDK leaves an orchestration running without end when its own serialization fails with anything but
    ValueError or TypeError.
    """

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        process = generation()
        try:
            result = function(*given, **named)
        except BaseException as error:
            end_child(process, error)
            reraise(error)
        end_child(process)
        if not isinstance(result, GeneratorType):
            return _encoded(result, converter)
        driver = _driven(result, converter)
        _turn.begun.append(driver)
        return driver

    return run


def contained_activity(function: Callable[..., Any], stats: WorkerStats) -> Callable[..., Any]:
    """Wrap an activity to raise only exceptions that the SDK can report, and measure it."""
    name = getattr(function, "__name__", "activity")
    if inspect.iscoroutinefunction(function):
        return _contained_async(function, name, stats)

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        began, process = time.perf_counter(), generation()
        try:
            result = function(*given, **named)
        except BaseException as error:
            end_child(process, error)
            stats.run(name, "failed", time.perf_counter() - began, current_sampled_trace())
            reraise(error)
        end_child(process)
        stats.run(name, "completed", time.perf_counter() - began, current_sampled_trace())
        return result

    return run


def _contained_async(function: Callable[..., Any], name: str, stats: WorkerStats) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*given: Any, **named: Any) -> Any:
        began, process = time.perf_counter(), generation()
        try:
            result = await function(*given, **named)
        except BaseException as error:
            end_child(process, error)
            stats.run(name, "failed", time.perf_counter() - began, current_sampled_trace())
            reraise(error)
        end_child(process)
        stats.run(name, "completed", time.perf_counter() - began, current_sampled_trace())
        return result

    return in_loop(run)


def _encoded(result: Any, converter: DataConverter) -> Encoded | None:
    """Serialize a result. Raises: OutputNotEncodable, without the value."""
    if result is None:
        return None
    try:
        text = converter.serialize(result)
    except Exception as error:
        reason = f"{type_name(error)}: {text_of(error)}"
    else:
        return None if text is None else Encoded(text)
    raise OutputNotEncodable(reason)


def _driven(inner: Generator[Any, Any, Any], converter: DataConverter) -> Generator[Any, Any, Any]:
    """Run an orchestrator's generator. Raises: only exceptions that the SDK can report; GeneratorExit when closed."""
    step: Callable[[Any], Any] = inner.send
    given: Any = None
    result: Any = None
    while True:
        process = generation()
        try:
            waits_for = step(given)
        except StopIteration as stopped:
            result = stopped.value
            break
        except BaseException as error:
            end_child(process, error)
            reraise(error)
        finally:
            end_child(process)
            given = None  # otherwise an exception that was thrown in and this frame would keep each other alive
        try:
            given = yield waits_for
            step = inner.send
        except GeneratorExit:
            close_quietly(inner)
            raise
        except BaseException as thrown:
            step, given = inner.throw, thrown
    return _encoded(result, converter)


class _CurrentTurn(threading.local):
    """Turn that this thread runs. begun: generators that the turn began."""

    def __init__(self) -> None:
        self.begun: list[Generator[Any, Any, Any]] = []


_turn = _CurrentTurn()


def keep_open() -> None:
    """Keep the orchestrator that this turn began open for its caller, which continues it in the next turn."""
    _turn.begun.clear()


def end_turn() -> None:
    """Close the generators of this turn: a garbage collector would run their `finally` clauses later, in any thread."""
    for generator in _turn.begun:
        close_quietly(generator)
    _turn.begun.clear()


def close_quietly(generator: Any) -> None:
    """Close a generator, and drop any exception of its `finally` clauses."""
    try:
        generator.close()
    except BaseException as error:
        logger.debug("closing an orchestrator raised %s", type_name(error))
