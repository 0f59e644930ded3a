"""Private parts of the SDK that the engines use: each in one place, each with a way to do without it.

The docstring of each function says what a missing part costs. Tests fail when the SDK changes
one of these parts, and when another module touches one (tests/engines/test_sdk_internals.py).
"""

from __future__ import annotations

import functools
import importlib
import logging
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.entities.entity_metadata import EntityMetadata
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DataConverter, JsonDataConverter
from durabletask.worker import TaskHubGrpcWorker

from bridge.core.errors import EngineMisconfigured
from bridge.system.log_context import INSTANCE

_HELPERS = "durabletask.internal.helpers"
_HEADERS = "durabletask.internal.grpc_interceptor"
_TASK_HUB = "durabletask.azuremanaged.internal.durabletask_grpc_interceptor"
_OUTPUT = "durabletask.internal.json_encode_output_exception"


def part(module: str, name: str) -> Any:
    """Member of a module of the SDK; None when either is missing."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


def _required(module: str, name: str, use: str) -> Any:
    """Part without which one feature cannot work. use: the feature. Raises: EngineMisconfigured."""
    found = part(module, name)
    if found is None:
        raise EngineMisconfigured(f"the installed durabletask cannot {use}: it has no {module}.{name}")
    return found


# Client


def stub_of(client: AsyncTaskHubGrpcClient) -> Any:
    """Stub of a client, for requests that its methods do not make.

    Without it, histories cannot be recorded, tags cannot be read and waiting messages cannot be counted. Raises:
    EngineMisconfigured.
    """
    find = getattr(client, "_get_stub", None)
    if find is None:
        raise EngineMisconfigured("the installed durabletask cannot make this request: its client has no _get_stub")
    return find()


def stores_payloads(client: AsyncTaskHubGrpcClient) -> bool:
    """True when a client moves large payloads to a store.

    True also when that is unknown: the client then makes every request itself.
    """
    return getattr(client, "_payload_store", client) is not None


def lock_holder(metadata: EntityMetadata) -> str | None:
    """Id of the orchestration that holds an entity's lock; None also when that is unknown.

    The public method reads every id as an entity's.
    """
    return getattr(metadata, "_locked_by", None) or None


def header_interceptor(headers: Sequence[tuple[str, str]], *, asynchronous: bool) -> Any:
    """Interceptor that adds headers to every call. Raises: EngineMisconfigured when the SDK has none."""
    name = "DefaultAsyncClientInterceptorImpl" if asynchronous else "DefaultClientInterceptorImpl"
    return _required(_HEADERS, name, "send headers")(list(headers))


def task_hub_interceptor(credential: Any, task_hub: str, worker_id: str | None = None, *, asynchronous: bool) -> Any:
    """Interceptor of the scheduler: task hub, version and token. The SDK adds it to no channel that it is given.

    Raises: EngineMisconfigured when the SDK has none.
    """
    if asynchronous:
        return _required(_TASK_HUB, "DTSAsyncDefaultClientInterceptorImpl", "name a task hub")(credential, task_hub)
    kind = _required(_TASK_HUB, "DTSDefaultClientInterceptorImpl", "name a task hub")
    return kind(credential, task_hub, worker_id=worker_id)


# Failures


def _plain_failure(error: BaseException, *_: Any) -> pb.TaskFailureDetails:
    """Failure details without causes."""
    details = pb.TaskFailureDetails(errorType=type(error).__qualname__, errorMessage=str(error))
    details.stackTrace.value = "".join(traceback.format_exception(error))
    return details


new_failure_details: Callable[..., pb.TaskFailureDetails] = part(_HELPERS, "new_failure_details") or _plain_failure
"""Failure details of an exception with its causes, as the SDK reports it; without the SDK's function, no causes."""

OutputNotEncodable: type[Exception] = part(_OUTPUT, "JsonEncodeOutputException") or TypeError
"""Exception that fails an orchestration whose result has no JSON form. The SDK treats a TypeError in the same way."""


def batch_of(request: Any) -> tuple[Any, list[pb.OperationInfo]]:
    """Entity request in the form of a batch, and details of its operations if the request is of the newer form.

    An SDK without the conversion is never sent the newer form.
    """
    if not isinstance(request, pb.EntityRequest):
        return request, []
    converted: tuple[Any, list[pb.OperationInfo]] = part(_HELPERS, "convert_to_entity_batch_request")(request)
    return converted


# Worker


class OpenWorker(TaskHubGrpcWorker):
    """Worker of the SDK with public names for the members that a subclass changes.

    An SDK that calls other methods than the overridden ones runs work without the subclass's changes: user code is then
    not contained, and responses are not inspected.
    """

    @property
    def converter(self) -> DataConverter:
        """Converter of the workflows' values; the SDK's default when it is unknown."""
        found: DataConverter | None = getattr(self, "_data_converter", None)
        return JsonDataConverter() if found is None else found

    def replace_converter(self, converter: DataConverter) -> None:
        """Use another converter from now on."""
        self._data_converter: DataConverter = converter

    @property
    def sdk_logger(self) -> logging.Logger | None:
        return getattr(self, "_logger", None)

    @property
    def handlers(self) -> tuple[Callable[[Any, Any, Any], Any], ...]:
        """Functions that run a turn, an activity and a batch of operations, and send the response to a stub."""
        return self._execute_orchestrator, self._execute_activity, self._execute_entity_batch

    @property
    def is_running(self) -> bool:
        """True between start and stop; False when that is unknown."""
        return bool(getattr(self, "_is_running", False))

    @property
    def has_lost_its_loop(self) -> bool:
        """True when the thread of the worker's event loop has ended; False when that is unknown."""
        thread = getattr(self, "_runLoop", None)
        return thread is not None and not thread.is_alive()

    @property
    def queued_items(self) -> tuple[int, int]:
        """Number of threads of the SDK's pool, and number of items that wait for one; (0, 0) when that is unknown."""
        pool = getattr(getattr(self, "_async_worker_manager", None), "thread_pool", None)
        queue = getattr(pool, "_work_queue", None)
        if queue is None:
            return 0, 0
        return self._concurrency_options.maximum_thread_pool_workers, queue.qsize()

    def intercept_arrivals(self, arrived: Callable[..., None]) -> None:
        """Call `arrived` with each work item before the SDK queues it, until the worker ends.

        Its arguments are the SDK's functions that queue the item and that return it to the engine, and then those of
        the first. Without these functions a stopping worker returns no work, and the flow of work items is not limited.
        """
        manager = getattr(self, "_async_worker_manager", None)
        for kind in ("orchestrator", "activity", "entity_batch"):
            name = "submit_orchestration" if kind == "orchestrator" else f"submit_{kind}"
            submit, cancel = getattr(manager, name, None), getattr(self, f"_cancel_{kind}", None)
            if submit is not None and cancel is not None:
                setattr(manager, name, functools.partial(arrived, submit, cancel))

    def run_turn(self, request: Any, stub: Any, token: Any) -> None:
        """Run one turn of an orchestration and send its response to `stub`."""
        super()._execute_orchestrator(request, stub, token)

    def run_activity(self, request: Any, stub: Any, token: Any) -> Future[None] | None:
        """Run an activity and send its response to `stub`.

        Returns a future for an activity that goes on elsewhere: done when its response was sent. None for others.
        """
        super()._execute_activity(request, stub, token)
        return None

    def run_entity_batch(self, request: Any, stub: Any, token: Any) -> pb.EntityBatchResult:
        """Run a batch of entity operations and send its result to `stub`."""
        return super()._execute_entity_batch(request, stub, token)

    def _execute_orchestrator(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        INSTANCE.set(req.instanceId)
        self.run_turn(req, stub, completionToken)
        INSTANCE.set(None)

    def _execute_activity(  # type: ignore[override]  # the SDK ignores the result
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> Future[None] | None:
        INSTANCE.set(req.orchestrationInstance.instanceId)
        pending = self.run_activity(req, stub, completionToken)
        INSTANCE.set(None)
        return pending

    def _execute_entity_batch(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> pb.EntityBatchResult:
        return self.run_entity_batch(req, stub, completionToken)
