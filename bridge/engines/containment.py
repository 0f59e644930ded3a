"""Containment of user code: an orchestrator, activity, entity or data converter can fail its own instance only.

The SDK's executors expect an Exception with a text. Any other exception (SystemExit, a `__str__` that raises, text that
is not UTF-8) escapes from them: it ends a thread of a pool, or the event loop of the SDK's worker, or its work never
ends.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import UTC, datetime
from types import GeneratorType
from typing import Any, NoReturn, Protocol

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DataConverter

from bridge.engines.remote_limits import WorkItemFlow
from bridge.engines.sdk_internals import OpenWorker, OutputNotEncodable, batch_of, new_failure_details
from bridge.engines.worker_stats import WorkerStats
from bridge.system.otel_context import current_sampled_trace

logger = logging.getLogger(__name__)

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


def _reraise(error: BaseException) -> NoReturn:
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
    text = _text(error)
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


def _text(error: BaseException) -> str:
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
            _reraise(error)
        return text

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        try:
            return self._inner.deserialize(data, target_type)
        except BaseException as error:
            _reraise(error)

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        try:
            return self._inner.coerce(value, target_type)
        except BaseException as error:
            _reraise(error)

    def can_reconstruct(self, target_type: Any) -> bool:
        try:
            return self._inner.can_reconstruct(target_type)
        except BaseException as error:
            _reraise(error)


def contained_orchestrator(function: Callable[..., Any], converter: DataConverter) -> Callable[..., Any]:
    """Wrap an orchestrator to raise only exceptions that the SDK can report.

    The SDK then releases the orchestrator's locks and keeps its actions. The wrapper serializes the result itself,
    because the SDK leaves an orchestration running for ever when its own serialization fails with anything but
    ValueError or TypeError.
    """

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        try:
            result = function(*given, **named)
        except BaseException as error:
            _reraise(error)
        if not isinstance(result, GeneratorType):
            return _encoded(result, converter)
        driver = _driven(result, converter)
        _turn.begun.append(driver)
        return driver

    return run


def contained_activity(function: Callable[..., Any], stats: WorkerStats) -> Callable[..., Any]:
    """Wrap an activity to raise only exceptions that the SDK can report, and measure it."""
    name = getattr(function, "__name__", "activity")

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            result = function(*given, **named)
        except BaseException as error:
            stats.run(name, "failed", time.perf_counter() - began, current_sampled_trace())
            _reraise(error)
        stats.run(name, "completed", time.perf_counter() - began, current_sampled_trace())
        return result

    return run


def _encoded(result: Any, converter: DataConverter) -> Encoded | None:
    """Serialize a result. Raises: OutputNotEncodable, without the value."""
    if result is None:
        return None
    try:
        text = converter.serialize(result)
    except Exception as error:
        reason = f"{type_name(error)}: {_text(error)}"
    else:
        return None if text is None else Encoded(text)
    raise OutputNotEncodable(reason)


def _driven(inner: Generator[Any, Any, Any], converter: DataConverter) -> Generator[Any, Any, Any]:
    """Run an orchestrator's generator. Raises: only exceptions that the SDK can report; GeneratorExit when closed."""
    step: Callable[[Any], Any] = inner.send
    given: Any = None
    result: Any = None
    while True:
        try:
            waits_for = step(given)
        except StopIteration as stopped:
            result = stopped.value
            break
        except BaseException as error:
            _reraise(error)
        finally:
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


class _Turn(threading.local):
    """Turn that this thread runs. begun: generators that the turn began."""

    def __init__(self) -> None:
        self.begun: list[Generator[Any, Any, Any]] = []


_turn = _Turn()


def keep_open() -> None:
    """Keep the orchestrator that this turn began open for its caller, which continues it in the next turn."""
    _turn.begun.clear()


def _end_turn() -> None:
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


class Load:
    """Load of one pool of threads: start times of the items that its threads run. Thread-safe."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        """Start time by thread id, on the monotonic clock."""

    def begin(self) -> None:
        """Record that this thread begins an item."""
        self.began[threading.get_ident()] = time.monotonic()

    def end(self) -> None:
        self.began.pop(threading.get_ident(), None)

    def is_stuck(self, threads: int, waiting: int, after: float) -> bool:
        """True when every thread has been busy with the same item for `after` seconds, and other items wait."""
        began = list(self.began.values())
        return waiting > 0 and len(began) >= threads and time.monotonic() - max(began) >= after


class RunningRecord(Protocol):
    """Record of the work items that threads of this process run."""

    def begin(self, token: str) -> None: ...

    def end(self) -> None: ...

    def resume(self) -> None: ...

    def drain(self) -> None: ...


class ContainedWorker(OpenWorker):
    """Worker of the SDK in which user code can fail only its own instance."""

    stuck_after: float | None = None
    """Seconds after which work that waits behind busy threads counts as stuck; None disables the check."""

    def __init__(
        self,
        *,
        running: RunningRecord | None = None,
        flow: WorkItemFlow | None = None,
        drain_mark: str | None = None,
        **options: Any,
    ) -> None:
        """Create the worker. options: those of the SDK's worker.

        running: record of the running work items, in a process whose end is also the engine's end.
        flow: flow of work items from a remote engine.
        drain_mark: prefix of the tokens with which a stopping worker returns its work; None returns nothing. The
        prefix is for engines that refuse the worker's responses from then on, and would count the worker as dead.
        """
        super().__init__(**options)
        self.running = running
        self.stats = WorkerStats()
        self.flow = flow
        self.drain_mark = drain_mark
        self.replace_converter(ContainedConverter(self.converter))
        self._load: Load | None = Load()
        """Load of the single pool of the SDK's worker; None where a subclass has pools of its own."""
        self._begin: Callable[[str], None] = self._begun
        """Called when a thread begins a work item. An attribute, like `_end`, for subclasses that need less."""
        self._end: Callable[[], None] = self._ended
        self._held: dict[str, _Answers] = {}
        """Unfinished work items of this worker by token, kept while `drain_mark` is set."""
        self._is_draining = False
        self.intercept_arrivals(self._arrived)

    def add_orchestrator(self, fn: Any) -> str:
        name: str = super().add_orchestrator(contained_orchestrator(fn, self.converter))
        return name

    def add_activity(self, fn: Any) -> str:
        name: str = super().add_activity(contained_activity(fn, self.stats))
        return name

    def start(self) -> None:
        if self.running is not None:
            self.running.resume()
        self._is_draining = False
        super().start()  # type: ignore[no-untyped-call]  # the SDK leaves its result unannotated

    def stop(self) -> None:
        if self.running is not None:
            self.running.drain()
        if self.drain_mark is not None:
            self._is_draining = True
            for answers in list(self._held.values()):
                answers.give_back()
        super().stop()  # type: ignore[no-untyped-call]  # as above

    def _arrived(
        self,
        submit: Callable[..., None],
        give_back: Callable[[Any, Any, str], None],
        execute: Any,
        cancel: Any,
        request: Any,
        stub: Any,
        token: str,
    ) -> None:
        """Take a work item from the stream, and keep it until `_release`."""
        if self.drain_mark is not None:
            mark = f"{self.drain_mark}{token}"
            cancel_item = functools.partial(give_back, request, stub, mark)
            self._held[token] = answers = _Answers(stub, self, request, cancel_item)
            if self._is_draining:
                answers.give_back()
        if self.flow is not None:
            done = self.flow.begin(request)
            execute, cancel = _before(done, execute), _before(done, cancel)
        submit(execute, cancel, request, stub, token)

    def look_at_turn(self, request: Any, response: pb.OrchestratorResponse) -> None:
        """Inspect the response of a turn before it is sent."""

    def look_at_activity(self, response: pb.ActivityResponse) -> None:
        """Inspect the failure of an activity before it is sent."""

    def _answers(self, request: Any, stub: Any, token: str) -> _Answers:
        found = self._held.get(token)
        return _Answers(stub, self, request) if found is None else found

    @property
    def session_count(self) -> int:
        """Number of orchestrations that stay in memory between their turns."""
        return 0

    def count_replay(self, request: Any) -> None:
        """Count the turn when it runs the orchestrator again from its history."""
        if request.pastEvents:
            self.stats.replay()

    def _release(self, token: str) -> None:
        self._held.pop(token, None)

    def _begun(self, token: str) -> None:
        """Record that this thread begins a work item."""
        if self._load is not None:
            self._load.begin()
        if self.running is not None:
            self.running.begin(token)

    def _ended(self) -> None:
        if self.running is not None:
            self.running.end()
        if self._load is not None:
            self._load.end()

    def stuck(self) -> list[str]:
        """Reasons why pools of threads cannot work; empty while all can, and when the worker is stopped."""
        if not self.is_running:
            return []
        if self.has_lost_its_loop:
            return ["the worker's event loop has ended; restart the process"]
        if self.stuck_after is None or self._load is None:
            return []
        threads, waiting = self.queued_items
        if not self._load.is_stuck(threads, waiting, self.stuck_after):
            return []
        return [stuck_pool("work", threads, waiting, self.stuck_after)]

    def run_turn(self, request: Any, stub: Any, token: Any) -> None:
        answers = self._answers(request, stub, token) if self._held else _Answers(stub, self, request)
        if answers.is_given_back:
            self._release(token)
            return
        self._begin(token)
        self.count_replay(request)
        try:
            super().run_turn(request, answers, token)
        except BaseException as error:
            failed = pb.OrchestratorAction(id=-1)
            failed.completeOrchestration.orchestrationStatus = pb.ORCHESTRATION_STATUS_FAILED
            failed.completeOrchestration.failureDetails.CopyFrom(failure_details(error))
            response = pb.OrchestratorResponse(instanceId=request.instanceId, actions=[failed], completionToken=token)
            answers.instead(error, "CompleteOrchestratorTask", response, f"orchestration {request.instanceId}")
        finally:
            self._end()
            if self._held:
                self._release(token)
            if _turn.begun:
                _end_turn()

    def run_activity(self, request: Any, stub: Any, token: Any) -> None:
        answers = self._answers(request, stub, token) if self._held else _Answers(stub, self, request)
        if answers.is_given_back:
            self._release(token)
            return
        self._begin(token)
        try:
            super().run_activity(request, answers, token)
        except BaseException as error:
            instance_id = request.orchestrationInstance.instanceId
            response = pb.ActivityResponse(
                instanceId=instance_id,
                taskId=request.taskId,
                failureDetails=failure_details(error),
                completionToken=token,
            )
            answers.instead(error, "CompleteActivityTask", response, f"activity {request.name} of {instance_id}")
        finally:
            self._end()
            if self._held:
                self._release(token)

    def run_entity_batch(self, request: Any, stub: Any, token: Any) -> pb.EntityBatchResult:
        """Run each operation as a batch of its own, which fails alone."""
        answers = self._answers(request, stub, token) if self._held else _Answers(stub, self, request)
        if answers.is_given_back:
            self._release(token)
            return pb.EntityBatchResult(completionToken=token)
        request, infos = batch_of(request)
        whole = pb.EntityBatchResult(completionToken=token, operationInfos=infos)
        if request.HasField("entityState"):
            whole.entityState.CopyFrom(request.entityState)
        for operation in request.operations:
            alone = pb.EntityBatchRequest(instanceId=request.instanceId, operations=[operation])
            if whole.HasField("entityState"):
                alone.entityState.CopyFrom(whole.entityState)
            began = datetime.now(UTC)
            collected = _Collected()
            self._begin(token)
            try:
                super().run_entity_batch(alone, collected, token)
            except BaseException as error:
                _tell(error, f"operation of entity {request.instanceId}")
                collected = _Collected()
                failed = whole.results.add().failure
                failed.failureDetails.CopyFrom(failure_details(error))
                failed.startTimeUtc.FromDatetime(began)
                failed.endTimeUtc.FromDatetime(datetime.now(UTC))
            finally:
                self._end()
            if collected.result is not None:
                for result in collected.result.results:
                    if result.HasField("failure"):
                        shorten(result.failure.failureDetails)
                    whole.results.append(result)
                whole.actions.extend(collected.result.actions)
                whole.ClearField("entityState")
                if collected.result.HasField("entityState"):
                    whole.entityState.CopyFrom(collected.result.entityState)
        try:
            answers.CompleteEntityTask(whole)
        except Exception as error:
            (self.sdk_logger or logger).error(
                "Failed to deliver the results of entity %s: %s", request.instanceId, type_name(error)
            )
        finally:
            self._release(token)
        return whole


def _before(done: Callable[[], None], handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler of a work item: call `done` when it has ended."""

    def run(*given: Any) -> Any:
        try:
            return handler(*given)
        finally:
            done()

    return run


def stuck_pool(name: str, threads: int, waiting: int, after: float) -> str:
    return f"all {threads} threads for {name} have been busy for {after:g} s or more, and {waiting} items wait"


def _tell(error: BaseException, what: str) -> None:
    logger.warning("%s failed: user code raised %s", what, type_name(error), extra={"action": "contained"})


class _Answers:
    """Stub that shows responses to its worker before they are sent, and records that the work item was answered.

    cancel: returns the work item, where that is possible.
    """

    is_given_back = False
    _is_answered = False

    def __init__(
        self, stub: Any, worker: ContainedWorker, request: Any, cancel: Callable[[], None] | None = None
    ) -> None:
        self._cancel = cancel
        self._stub = stub
        self._worker = worker
        self._request = request

    # The two methods that every work item needs are defined explicitly, which is faster.
    def CompleteOrchestratorTask(self, response: pb.OrchestratorResponse) -> Any:  # noqa: N802 -- the protocol's name
        self._is_answered = True
        if self.is_given_back:
            return None
        self._worker.look_at_turn(self._request, response)
        return self._stub.CompleteOrchestratorTask(response)

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> Any:  # noqa: N802 -- the protocol's name
        self._is_answered = True
        if self.is_given_back:
            return None
        if response.HasField("failureDetails"):
            self._worker.look_at_activity(response)
        return self._stub.CompleteActivityTask(response)

    def __getattr__(self, name: str) -> Any:
        call = _unheard if self.is_given_back else getattr(self._stub, name)
        self._is_answered = True
        return call

    def give_back(self) -> None:
        """Return the work item for another worker; a later response of this worker is not sent."""
        self.is_given_back = True
        if self._cancel is not None:
            with suppress(Exception):  # the engine may be gone and have nothing to take back
                self._cancel()

    def instead(self, error: BaseException, method: str, response: Any, what: str) -> None:
        """Send a response for an executor that raised, unless it has responded."""
        _tell(error, what)
        if self._is_answered:
            return
        try:
            getattr(self, method)(response)
        except Exception as refused:
            logger.error("%s: its failure could not be delivered: %s", what, type_name(refused))


def _unheard(response: Any) -> None:
    """Discard a response to a work item that was returned."""


class _Collected:
    """Stub that keeps the result of an entity batch."""

    result: pb.EntityBatchResult | None = None

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self.result = result
