"""Pytest plugin that runs the Python SDK's suites over the bridge's loop for remote workers.

It replaces the SDK's two classes of workers, beside the replacements of `stand_in`.
"""

from __future__ import annotations

from typing import Any

import durabletask.azuremanaged.worker
import durabletask.worker
from durabletask.grpc_options import GrpcChannelOptions
from stand_in import (  # type: ignore[import-not-found]  # copied beside this file
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)
from stand_in import pytest_configure as configure

from bridge.engines.embedded.remote.worker import RemoteWorker
from bridge.engines.remote.grpc_channel import CallHeaders, worker_channel
from bridge.engines.sdk_internals import header_interceptor, task_hub_interceptor

__all__ = ["pytest_collectreport", "pytest_configure", "pytest_runtest_logreport", "pytest_sessionfinish"]

IGNORED = ("resiliency_options", "channel", "log_handler", "log_formatter", "resource_id")


class LoopWorker(RemoteWorker):
    """Worker with the interface of the SDK's."""

    def __init__(
        self,
        *,
        host_address: str = "localhost:4001",
        metadata: list[tuple[str, str]] | None = None,
        secure_channel: bool = False,
        interceptors: Any = None,
        channel_options: GrpcChannelOptions | None = None,
        taskhub: str | None = None,
        token_credential: Any = None,
        **options: Any,
    ) -> None:
        address = host_address.rpartition("://")[2]
        headers = [*(interceptors or ()), *([header_interceptor(metadata, asynchronous=False)] if metadata else ())]
        if taskhub is not None:
            headers.append(task_hub_interceptor(token_credential, taskhub, asynchronous=False))
        super().__init__(
            lambda: worker_channel(address, channel_options or GrpcChannelOptions()),
            CallHeaders(headers),
            backoff_cap=1.0,
            sessions=1000,
            emit_trace_spans=True,
            **{name: value for name, value in options.items() if name not in IGNORED},
        )


def pytest_configure() -> None:
    configure()
    for module in (durabletask.worker, durabletask.azuremanaged.worker):
        vars(module)["TaskHubGrpcWorker"] = LoopWorker
    vars(durabletask.azuremanaged.worker)["DurableTaskSchedulerWorker"] = LoopWorker
