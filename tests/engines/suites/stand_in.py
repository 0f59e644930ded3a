"""Pytest plugin for the Python SDK's suites: replaces the SDK's in-memory backend by the engine.

The plugin is copied beside the suites and loaded there. ENGINE_PORT: port of the engine. OUTCOMES: output file with the
outcome of each test.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import durabletask.testing
import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs

PORT = int(os.environ["ENGINE_PORT"])
RANK = ("passed", "skipped", "failed")

make_stub: Any = stubs.TaskHubSidecarServiceStub
outcomes: dict[str, str] = {}


class Backend:
    """Default task hub of the engine, emptied."""

    def __init__(self, port: int, max_history_size: int = 0) -> None:
        assert port == PORT
        self.reset()

    def stop(self) -> None:
        """Do nothing: the engine stays for the next test."""

    def reset(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
            hub = make_stub(channel)
            hub.CreateTaskHub(pb.CreateTaskHubRequest(recreateIfExists=True), timeout=30)


def pytest_configure() -> None:
    testing: Any = durabletask.testing
    testing.create_test_backend = Backend
    ports: Any = importlib.import_module("tests.durabletask._port_utils")
    ports.find_free_port = lambda: PORT


def seen(node: str, outcome: str) -> None:
    """Record an outcome. A test has up to three reports; the worst counts."""
    outcomes[node] = max(outcomes.get(node, outcome), outcome, key=RANK.index)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seen(report.nodeid, report.outcome)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed":
        seen(report.nodeid, report.outcome)


def pytest_sessionfinish() -> None:
    Path(os.environ["OUTCOMES"]).write_text(json.dumps(outcomes))
