"""Names of codecs, and the content type of each. Pure."""

from __future__ import annotations

from typing import Literal

SourceCodec = Literal["cloudevents", "json", "text", "bytes", "avro", "protobuf"]
"""Codecs that read the messages of a source."""

TargetCodec = Literal["cloudevents", "cloudevents-binary", "json", "text", "bytes", "avro", "protobuf"]
"""Codecs that write the messages of a target: all codecs."""

SCHEMA_CODECS = ("avro", "protobuf")
"""Codecs that need a schema registry."""


def content_type(codec: TargetCodec) -> str:
    """Content type of the messages of a codec, for descriptions of them. The type checker finds a missing codec."""
    match codec:
        case "cloudevents":
            return "application/cloudevents+json"
        case "cloudevents-binary" | "json":
            return "application/json"
        case "text":
            return "text/plain"
        case "bytes":
            return "application/octet-stream"
        case "avro":
            return "avro/binary"
        case "protobuf":
            return "application/x-protobuf"
