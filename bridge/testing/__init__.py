"""Test kit: a whole bridge in the test's process, with virtual time that the test advances, and replay tests."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.engines.recording import Recording, UnreadableRecording
    from bridge.testing.local_bridge import LocalBridge, NotFinished, Published
    from bridge.testing.replaying import ReplayMismatch, replay

__all__ = [
    "LocalBridge",
    "NotFinished",
    "Published",
    "Recording",
    "ReplayMismatch",
    "UnreadableRecording",
    "replay",
]

_HOMES = {
    "LocalBridge": "bridge.testing.local_bridge",
    "NotFinished": "bridge.testing.local_bridge",
    "Published": "bridge.testing.local_bridge",
    "Recording": "bridge.engines.recording",
    "ReplayMismatch": "bridge.testing.replaying",
    "UnreadableRecording": "bridge.engines.recording",
    "replay": "bridge.testing.replaying",
}


def __getattr__(name: str) -> Any:
    # pytest imports this package for its plugin in every run; the other modules are loaded on demand
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
