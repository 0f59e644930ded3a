"""Activities that are coroutine functions: they run in one event loop of the process.

A worker with pools of its own passes them on to the loop, and its threads go on with other work. In the SDK's worker
each one occupies a thread of the pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from bridge.system.forks import end_child, generation

WORKERS = 32
"""Threads for blocking code that async activities run with `asyncio.to_thread`."""


class Steps(NamedTuple):
    """Record of the code that a thread runs for one work item.

    begin, end: called around each step of a coroutine, in its thread.
    """

    begin: Callable[[], None]
    end: Callable[[], None]


_STEPS: contextvars.ContextVar[Steps | None] = contextvars.ContextVar("bridge_async_activity", default=None)
"""Record of the activity to which a task belongs, or a thread of `asyncio.to_thread`."""


class Deferred(BaseException):
    """Raised by an async activity in a thread that may pass it on: the coroutine, and the context for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__()
        self.coroutine = coroutine
        self.context = contextvars.copy_context()


class _Thread(threading.local):
    """Property of a thread. defers: the call that runs can pass on an async activity."""

    defers = False


_thread = _Thread()


def deferring(call: Callable[..., Any], *given: Any) -> Any:
    """Call a function that may run an async activity. Raises: Deferred instead of running it."""
    _thread.defers = True
    try:
        return call(*given)
    finally:
        _thread.defers = False


class _Stepped:
    """Awaitable that runs a coroutine, and records each of its steps."""

    def __init__(self, coroutine: Any, steps: Steps) -> None:
        self._coroutine = coroutine
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, (begin, end) = self._coroutine, self._steps
        step, given = coroutine.send, None
        while True:
            begin()
            began = generation()
            try:
                awaited = step(given)
            except StopIteration as stopped:
                return stopped.value
            except (KeyboardInterrupt, SystemExit) as error:
                # It would end the loop of all activities
                raise RuntimeError(f"a task of an async activity raised {type(error).__name__}") from error
            finally:
                end_child(began)
                end()
            try:
                step, given = coroutine.send, (yield awaited)
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                step, given = coroutine.throw, error


async def _recorded(coroutine: Any, steps: Steps) -> Any:
    return await _Stepped(coroutine, steps)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Task whose steps belong to the activity that creates it."""
    context: contextvars.Context | None = options.get("context")
    steps = _STEPS.get() if context is None else context.get(_STEPS)
    return asyncio.Task(coroutine if steps is None else _recorded(coroutine, steps), loop=loop, **options)


class _Executor(ThreadPoolExecutor):
    """Threads for `asyncio.to_thread`, which belong to the activity that uses them."""

    def submit(self, fn: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        steps = _STEPS.get()
        return super().submit(fn if steps is None else functools.partial(_in_step, steps, fn), *given, **named)


def _in_step(steps: Steps, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    steps.begin()
    began = generation()
    try:
        return function(*given, **named)
    finally:
        end_child(began, sys.exception())
        steps.end()


class _Loop:
    """Event loop in a thread of its own, which starts with the first activity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[None]] = set()

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        settle: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run a coroutine in a context. settle: called in the loop with its result, or with its exception."""
        self._started().call_soon_threadsafe(self._begin, coroutine, context, settle)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the context of the caller, and return its result. Raises: what it raises."""
        done: Future[Any] = Future()

        def settle(result: Any, error: BaseException | None) -> None:
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        self.start(coroutine, contextvars.copy_context(), settle)
        return done.result()

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        settle: Callable[[Any, BaseException | None], None],
    ) -> None:
        # A loop keeps weak references to its tasks only
        task = asyncio.get_running_loop().create_task(_settled(coroutine, settle), context=context)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_task_factory(_make_task)
                self._loop.set_default_executor(_Executor(WORKERS, "async-activities"))
                threading.Thread(target=self._loop.run_forever, name="async-activities", daemon=True).start()
            return self._loop


async def _settled(coroutine: Coroutine[Any, Any, Any], settle: Callable[[Any, BaseException | None], None]) -> None:
    """Pass on the outcome. No exception reaches the loop, which a SystemExit would end."""
    try:
        result = await coroutine
    except BaseException as error:
        settle(None, error)
    else:
        settle(result, None)


_LOOP = _Loop()


def start(deferred: Deferred, steps: Steps, settle: Callable[[Any, BaseException | None], None]) -> None:
    """Run a deferred activity in the event loop.

    settle: called there with the result, or with the exception of the activity. It must raise nothing.
    """
    deferred.context.run(_STEPS.set, steps)
    _LOOP.start(deferred.coroutine, deferred.context, settle)


def in_loop(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Function that runs the coroutine function in the event loop, and waits for its result.

    In a call of `deferring` it raises Deferred.
    """

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        coroutine = function(*given, **named)
        if _thread.defers:
            raise Deferred(coroutine)
        return _LOOP.run(coroutine)

    return run


class DeferredCount:
    """Number of a worker's activities in the event loop. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0

    def begin(self) -> None:
        with self._changed:
            self._number += 1

    def end(self) -> None:
        with self._changed:
            self._number -= 1
            if not self._number:
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until none is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._number)
