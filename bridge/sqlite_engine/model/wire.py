"""Well-known protobuf types of the protocol."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BoolValue, Int32Value, StringValue

__all__ = ["BoolValue", "Duration", "Empty", "Int32Value", "StringValue", "Timestamp"]
