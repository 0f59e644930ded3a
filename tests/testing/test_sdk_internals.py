"""The SDK has the private parts that the test kit uses; without one of them, the kit names it."""

from __future__ import annotations

import durabletask.worker
import pytest
from durabletask.testing.in_memory_backend import InMemoryOrchestrationBackend

from bridge.testing import sdk_internals
from bridge.testing.sdk_internals import VirtualBackend


@pytest.mark.parametrize("name", sdk_internals._OVERRIDDEN)
def test_a_backend_of_another_version_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    VirtualBackend().close()
    monkeypatch.delattr(InMemoryOrchestrationBackend, name)
    with pytest.raises(RuntimeError, match=f"does not work with the installed durabletask: .* has no {name}"):
        VirtualBackend()


@pytest.mark.parametrize("name", ["_Registry", "_OrchestrationExecutor"])
def test_a_worker_of_another_version_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(durabletask.worker, name)
    with pytest.raises(RuntimeError, match=f"durabletask.worker has no {name}"):
        sdk_internals.replay_turn({}, None, None, "a", [], [])


def test_every_overridden_method_is_checked() -> None:
    inherited = {name for name in vars(VirtualBackend) if name in vars(InMemoryOrchestrationBackend)}
    assert {name for name in inherited if name.startswith("_") and not name.startswith("__")} == set(
        sdk_internals._OVERRIDDEN
    )
