"""Codecs by name."""

from __future__ import annotations

from collections.abc import Callable

from bridge.codecs.base import Codec
from bridge.codecs.cloudevents import CloudEventsBinaryCodec, CloudEventsCodec
from bridge.codecs.json import JsonCodec
from bridge.codecs.limits import DEFAULT_LIMITS
from bridge.codecs.text_and_bytes import BytesCodec, TextCodec
from bridge.config.model.sources import LimitsConfig

CodecFactory = Callable[[LimitsConfig], Codec]
"""Callback that creates a codec with the given limits: only the codec knows which of its parts are recursive."""

CODECS: dict[str, CodecFactory] = {
    "cloudevents": CloudEventsCodec,
    "cloudevents-binary": CloudEventsBinaryCodec,
    "json": JsonCodec,
    "text": TextCodec,
    "bytes": BytesCodec,
}


def get(name: str, limits: LimitsConfig = DEFAULT_LIMITS) -> Codec:
    """The codec of this name. Raises: LookupError, listing the known names."""
    factory = CODECS.get(name)
    if factory is None:
        raise LookupError(f"there is no codec named {name}; known are {', '.join(sorted(CODECS))}")
    return factory(limits)
