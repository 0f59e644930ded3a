from tests.kit.processes import TIMEOUT, bridge, events, sidecar
from tests.kit.processes import DaemonProcess as Serve

__all__ = ["TIMEOUT", "Serve", "bridge", "events", "sidecar"]
