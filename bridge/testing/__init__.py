"""The test kit: a whole bridge in the test's process, with time that passes when the test says so; and replay tests."""

from bridge.engines.recording import Recording
from bridge.testing.local_bridge import LocalBridge, NotFinished, Published
from bridge.testing.replay import ReplayMismatch, replay

__all__ = ["LocalBridge", "NotFinished", "Published", "Recording", "ReplayMismatch", "replay"]
