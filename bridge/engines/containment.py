"""Containment of user code: what an orchestrator, activity, entity or data converter raises fails its own instance.

The SDK's executors expect an Exception with a text. Anything else (SystemExit, a `__str__` that raises, text that is no
UTF-8) leaves them: it ends a thread of a pool, or the event loop of the SDK's worker, or its work never ends.
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

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.json_encode_output_exception import JsonEncodeOutputException
from durabletask.serialization import DataConverter
from durabletask.worker import TaskHubGrpcWorker

logger = logging.getLogger(__name__)

MAX_MESSAGE = 16 * 1024
"""Characters of an exception's text that a failure keeps, where the exception has to be copied."""
MAX_DETAILS = 256 * 1024
"""Bytes of failure details above which an exception is copied with shorter text and without stack trace."""
MAX_CAUSES = 10
"""Causes of an exception that its copy keeps: as many as the SDK reports."""


class CopiedFailure(Exception):
    """Base of the exceptions that stand for one that the SDK cannot report. Each copy has the original's type name."""


def presentable(error: BaseException) -> Exception:
    """Return the exception itself where the SDK can report it, else a copy of its type name, text and causes."""
    # The SDK takes a StopIteration for the end of an orchestrator.
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
    """Raise what `presentable` gives for the exception that is being handled."""
    shown = presentable(error)
    try:
        if shown is error:
            raise
        raise shown
    finally:
        if shown is not error:
            shown.__context__ = None
        del shown, error  # or exception and frame would keep each other


def failure_details(error: BaseException) -> pb.TaskFailureDetails:
    """Describe an exception that left the SDK's executors. Never raises."""
    # An Exception leaves them only while they report another one: its `__str__` raised, or its text is not UTF-8.
    reported = _cause(error) if issubclass(type(error), Exception) else None
    return helpers.new_failure_details(presentable(reported if reported is not None else error))


def shorten(details: pb.TaskFailureDetails) -> None:
    """Cut the texts of a failure that is too large."""
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
        size: int = helpers.new_failure_details(error).ByteSize()
        return size <= MAX_DETAILS
    except BaseException:
        return False


def _cause(error: BaseException) -> BaseException | None:
    try:
        cause = error.__cause__
        return error.__context__ if cause is None else cause
    except BaseException:  # a subclass may hide them behind properties
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
    """The text with lone surrogates escaped, as protocol buffers need it."""
    return text.encode("utf-8", "backslashreplace").decode()


class Encoded:
    """A value that is serialized already."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class ContainedConverter(DataConverter):
    """A data converter that raises only exceptions that the SDK can report, and gives only text that can be sent."""

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
    """Wrap an orchestrator, so that its failures pass through the SDK, which releases its locks and keeps its actions.

    The result is serialized here: the SDK leaves an orchestration running for ever when its own attempt fails with
    anything but ValueError and TypeError.
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


def contained_activity(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an activity, so that it raises only exceptions that the SDK can report."""

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except BaseException as error:
            _reraise(error)

    return run


def _encoded(result: Any, converter: DataConverter) -> Encoded | None:
    """Raises: JsonEncodeOutputException, without the value."""
    if result is None:
        return None
    try:
        text = converter.serialize(result)
    except Exception as error:
        reason = f"{type_name(error)}: {_text(error)}"
    else:
        return None if text is None else Encoded(text)
    raise JsonEncodeOutputException(reason)


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
            given = None  # or an exception that was thrown in and this frame would keep each other
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
    """The turn that this thread runs. begun: generators that it began."""

    def __init__(self) -> None:
        self.begun: list[Generator[Any, Any, Any]] = []


_turn = _Turn()


def keep_open() -> None:
    """Leave the orchestrator that this turn began to its caller: the next turn goes on with it."""
    _turn.begun.clear()


def _end_turn() -> None:
    """Close what the turn began: a collector would run its `finally` clauses later, and in any thread."""
    for generator in _turn.begun:
        close_quietly(generator)
    _turn.begun.clear()


def close_quietly(generator: Any) -> None:
    """Close a generator; whatever its `finally` clauses raise is dropped."""
    try:
        generator.close()
    except BaseException as error:
        logger.debug("closing an orchestrator raised %s", type_name(error))


class Load:
    """Work of one pool of threads: when each busy thread began with its item. Used from any thread."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        """By thread."""

    def begin(self) -> None:
        """This thread begins with an item."""
        self.began[threading.get_ident()] = time.monotonic()

    def end(self) -> None:
        self.began.pop(threading.get_ident(), None)

    def is_stuck(self, threads: int, waiting: int, after: float) -> bool:
        """Every thread has been busy with the same items for `after` seconds, and others wait."""
        began = list(self.began.values())
        return waiting > 0 and len(began) >= threads and time.monotonic() - max(began) >= after


class RunningRecord(Protocol):
    """A record of the work items that threads of this process run."""

    def begin(self, token: str) -> None: ...

    def end(self) -> None: ...

    def resume(self) -> None: ...

    def drain(self) -> None: ...


class ContainedWorker(TaskHubGrpcWorker):
    """A worker of the SDK in which user code can fail only its own instance."""

    stuck_after: float | None = None
    """Seconds after which work that waits behind busy threads counts as stuck; None: never."""

    running: RunningRecord | None = None
    """Told which work items run, where this process's death is the engine's too."""

    drain_mark: str | None = None
    """Begins the tokens with which a worker that stops gives back what it holds; None: it gives nothing back. For
    engines that refuse its answers from then on, and would take it for dead."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._data_converter: DataConverter = ContainedConverter(self._data_converter)
        self._load: Load | None = Load()
        """Of the one pool of the SDK's worker; None where a subclass has pools of its own."""
        self._begin: Callable[[str], None] = self._begun
        """Called when a thread begins with a work item. An attribute, as `_end`, for subclasses that need less."""
        self._end: Callable[[], None] = self._ended
        self._held: dict[str, _Answers] = {}
        """Work items that this worker has and has not done, by token, where they are given back."""
        self._is_draining = False
        manager = self._async_worker_manager
        for submit, cancel in (
            ("submit_orchestration", self._cancel_orchestrator),
            ("submit_activity", self._cancel_activity),
            ("submit_entity_batch", self._cancel_entity_batch),
        ):
            setattr(manager, submit, functools.partial(self._arrived, getattr(manager, submit), cancel))

    def add_orchestrator(self, fn: Any) -> str:
        name: str = super().add_orchestrator(contained_orchestrator(fn, self._data_converter))
        return name

    def add_activity(self, fn: Any) -> str:
        name: str = super().add_activity(contained_activity(fn))
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
        """Take a work item from the stream; it is held until `_let_go`."""
        if self.drain_mark is not None:
            mark = f"{self.drain_mark}{token}"
            self._held[token] = answers = _Answers(stub, self, request)
            answers.cancel = functools.partial(give_back, request, stub, mark)
            if self._is_draining:
                answers.give_back()
        submit(execute, cancel, request, stub, token)

    def look_at_turn(self, request: Any, response: pb.OrchestratorResponse) -> None:
        """Look at the answer of a turn before it goes out."""

    def look_at_activity(self, response: pb.ActivityResponse) -> None:
        """Look at the failure of an activity before it goes out."""

    def _answers(self, request: Any, stub: Any, token: str) -> _Answers:
        found = self._held.get(token)
        return _Answers(stub, self, request) if found is None else found

    def _release(self, token: str) -> None:
        self._held.pop(token, None)

    def _begun(self, token: str) -> None:
        """This thread begins with a work item."""
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
        """Describe each pool of threads that cannot work. Empty while all can, and when the worker is stopped."""
        if not self._is_running:
            return []
        if self._runLoop is not None and not self._runLoop.is_alive():
            return ["the worker's event loop has ended; restart the process"]
        if self.stuck_after is None or self._load is None:
            return []
        manager = self._async_worker_manager
        threads = self._concurrency_options.maximum_thread_pool_workers
        waiting = manager.thread_pool._work_queue.qsize()
        if not self._load.is_stuck(threads, waiting, self.stuck_after):
            return []
        return [stuck_pool("work", threads, waiting, self.stuck_after)]

    def _execute_orchestrator(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        answers = self._answers(req, stub, completionToken) if self._held else _Answers(stub, self, req)
        if answers.is_given_back:
            self._release(completionToken)
            return
        self._begin(completionToken)
        try:
            super()._execute_orchestrator(req, answers, completionToken)
        except BaseException as error:
            failed = helpers.new_complete_orchestration_action(
                -1, pb.ORCHESTRATION_STATUS_FAILED, None, failure_details(error)
            )
            response = pb.OrchestratorResponse(
                instanceId=req.instanceId, actions=[failed], completionToken=completionToken
            )
            answers.instead(error, "CompleteOrchestratorTask", response, f"orchestration {req.instanceId}")
        finally:
            self._end()
            if self._held:
                self._release(completionToken)
            if _turn.begun:
                _end_turn()

    def _execute_activity(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        answers = self._answers(req, stub, completionToken) if self._held else _Answers(stub, self, req)
        if answers.is_given_back:
            self._release(completionToken)
            return
        self._begin(completionToken)
        try:
            super()._execute_activity(req, answers, completionToken)
        except BaseException as error:
            instance_id = req.orchestrationInstance.instanceId
            response = pb.ActivityResponse(
                instanceId=instance_id,
                taskId=req.taskId,
                failureDetails=failure_details(error),
                completionToken=completionToken,
            )
            answers.instead(error, "CompleteActivityTask", response, f"activity {req.name} of {instance_id}")
        finally:
            self._end()
            if self._held:
                self._release(completionToken)

    def _execute_entity_batch(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> pb.EntityBatchResult:
        """Run each operation as a batch of its own, so that one fails alone."""
        answers = self._answers(req, stub, completionToken) if self._held else _Answers(stub, self, req)
        if answers.is_given_back:
            self._release(completionToken)
            return pb.EntityBatchResult(completionToken=completionToken)
        infos: list[pb.OperationInfo] = []
        if isinstance(req, pb.EntityRequest):
            req, infos = helpers.convert_to_entity_batch_request(req)
        whole = pb.EntityBatchResult(completionToken=completionToken, operationInfos=infos)
        if req.HasField("entityState"):
            whole.entityState.CopyFrom(req.entityState)
        for operation in req.operations:
            alone = pb.EntityBatchRequest(instanceId=req.instanceId, operations=[operation])
            if whole.HasField("entityState"):
                alone.entityState.CopyFrom(whole.entityState)
            began = datetime.now(UTC)
            collected = _Collected()
            self._begin(completionToken)
            try:
                super()._execute_entity_batch(alone, collected, completionToken)
            except BaseException as error:
                _tell(error, f"operation of entity {req.instanceId}")
                collected.result = None
                failed = whole.results.add().failure
                failed.failureDetails.CopyFrom(failure_details(error))
                failed.startTimeUtc.CopyFrom(helpers.new_timestamp(began))
                failed.endTimeUtc.CopyFrom(helpers.new_timestamp(datetime.now(UTC)))
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
            self._logger.error("Failed to deliver the results of entity %s: %s", req.instanceId, type_name(error))
        finally:
            self._release(completionToken)
        return whole


def stuck_pool(name: str, threads: int, waiting: int, after: float) -> str:
    return f"all {threads} threads for {name} have been busy for {after:g} s or more, and {waiting} items wait for them"


def _tell(error: BaseException, what: str) -> None:
    logger.warning("%s failed: user code raised %s", what, type_name(error), extra={"action": "contained"})


class _Answers:
    """A stub that shows answers to its worker before they go out, and knows whether the work item was answered.

    cancel: gives the work item back, where that is possible.
    """

    is_given_back = False
    _is_answered = False
    cancel: Callable[[], None] | None = None

    def __init__(self, stub: Any, worker: ContainedWorker, request: Any) -> None:
        self._stub = stub
        self._worker = worker
        self._request = request

    # The two that every work item needs are written down: they cost less so.
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
        """Leave the work item to another worker; an answer that this one comes to is not sent."""
        self.is_given_back = True
        if self.cancel is not None:
            with suppress(Exception):  # the engine may be gone: then it has nothing to take back
                self.cancel()

    def instead(self, error: BaseException, method: str, response: Any, what: str) -> None:
        """Answer for an executor that raised, unless it has answered."""
        _tell(error, what)
        if self._is_answered:
            return
        try:
            getattr(self, method)(response)
        except Exception as refused:
            logger.error("%s: its failure could not be delivered: %s", what, type_name(refused))


def _unheard(response: Any) -> None:
    """An answer to a work item that was given back."""


class _Collected:
    """A stub that keeps the result of an entity batch."""

    result: pb.EntityBatchResult | None = None

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self.result = result
