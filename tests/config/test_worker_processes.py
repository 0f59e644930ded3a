"""Settings of worker processes, and what they cannot be combined with."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bridge.app.serve.worker_processes import process_count
from bridge.config.model.engines import EngineConfig, WorkerConfig

ENGINES: TypeAdapter[Any] = TypeAdapter(EngineConfig)


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"type": "scheduler", "worker": {"processes": 2}}, "need an embedded engine"),
        ({"type": "scheduler", "worker": {"processes": "auto"}}, "need an embedded engine"),
        ({"type": "scheduler", "worker": {"memory_limit": "1GiB"}}, "need an embedded engine"),
        ({"type": "embedded", "dispatch": "protocol", "worker": {"processes": 2}}, "needs `dispatch: direct`"),
        ({"type": "embedded", "worker": {"memory_limit": "1GiB"}}, "needs `worker.processes`"),
        ({"type": "embedded", "worker": {"processes": -1}}, "greater than or equal to 0"),
        ({"type": "embedded", "worker": {"processes": 300}}, "less than or equal to 256"),
        ({"type": "embedded", "worker": {"processes": "many"}}, "'auto'"),
        ({"type": "embedded", "worker": {"processes": 1, "memory_limit": "1MiB"}}, "greater than or equal to"),
    ],
)
def test_what_cannot_work_is_refused(engine: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ENGINES.validate_python(engine)
    assert reason in str(caught.value)


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (8, 7)])
def test_auto_leaves_a_core_to_the_daemon(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert process_count(WorkerConfig(processes="auto")) == expected
    assert process_count(WorkerConfig(processes=3)) == 3
    assert process_count(WorkerConfig()) == 0
