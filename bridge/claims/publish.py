"""Publication with a claim check: a large payload goes to a store, and the message has a reference to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.core.bytetext import compact_json
from bridge.core.errors import DecodeError, PublishFailed
from bridge.core.message import Event, Message
from bridge.system import private

StorePayload = Callable[[str, bytes], str]
"""Function that stores a payload under a name and returns its reference. It may overwrite. Raises: BridgeError."""

_STRUCTURED = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class PublishedClaims:
    """Claim checks of one target. Thread-safe.

    target: its name. above: bytes of the largest body that a message has itself.
    attribute: CloudEvents extension with the reference. header: header with it, for formats without attributes.
    """

    target: str
    put: StorePayload
    above: int
    attribute: str
    header: str

    def apply(self, event: Event, message: Message) -> Message:
        """Message with a reference in the place of a large body. Blocks. Raises: BridgeError.

        A repeated publication stores its payload under the same name.
        """
        body = message.body
        if body is None or len(body) <= self.above:
            return message
        name = hashlib.sha256(f"{self.target}\n{event.id}".encode("utf-8", "surrogatepass")).hexdigest()
        if message.content_type == _STRUCTURED:
            return self._structured(event, message, name)
        reference = self.put(name, body)
        header = f"ce_{self.attribute}" if any(key == "ce_id" for key, _ in message.headers) else self.header
        return replace(message, body=b"", headers=(*message.headers, (header, reference.encode())))

    def _structured(self, event: Event, message: Message, name: str) -> Message:
        try:
            document = json.loads(message.body or b"{}")  # unlike orjson, it keeps integers of more than 64 bits
            document.pop("data_base64", None)
            data = document.pop("data", None)
            payload = event.data if isinstance(event.data, bytes) else compact_json(data)
        except RecursionError:
            raise DecodeError("the event's data nests too deep for a claim check") from None
        document[self.attribute] = self.put(name, payload)
        return replace(message, body=compact_json(document))


def files_store(directory: Path) -> StorePayload:
    """Store of files in a directory, for readers of the same user; references are `file:///...`."""

    def put(name: str, payload: bytes) -> str:
        path = directory.absolute() / name
        try:
            private.missing_directory(directory)
            with private.replacing(path) as out:
                out.write(payload)
        except OSError as error:
            raise PublishFailed(f"a payload of {len(payload)} bytes cannot be written: {error.strerror}") from error
        return f"file://{path}"

    return put
