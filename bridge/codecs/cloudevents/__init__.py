"""CloudEvents 1.0 (https://github.com/cloudevents/spec, v1.0.2) in structured and binary content mode."""

from bridge.codecs.cloudevents.codec import CloudEventsBinaryCodec, CloudEventsCodec

__all__ = ["CloudEventsBinaryCodec", "CloudEventsCodec"]
