"""Well-known protobuf types of the protocol."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped]  # as below
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]  # protobuf ships no type information
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # as above
from google.protobuf.wrappers_pb2 import BoolValue, Int32Value, StringValue  # type: ignore[import-untyped]  # as above

__all__ = ["BoolValue", "Duration", "Empty", "Int32Value", "StringValue", "Timestamp"]
