"""What workflows may import from the bridge. Everything works inside a plain Durable Task orchestrator."""

from bridge.workflow.converter import DataConverter
from bridge.workflow.publishing import PUBLISH_ACTIVITY, publish

__all__ = ["PUBLISH_ACTIVITY", "DataConverter", "publish"]
