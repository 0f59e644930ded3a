"""Publications with a claim check: what is stored, and that a source with the same settings reads it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from bridge.claims.publish import PublishedClaims, files_store
from bridge.claims.source import ClaimChecks
from bridge.codecs.cloudevents.codec import CloudEventsBinaryCodec, CloudEventsCodec
from bridge.codecs.json import JsonCodec
from bridge.codecs.text_and_bytes import BytesCodec
from bridge.config.model.claims import ClaimCheckConfig
from bridge.config.model.sources import LimitsConfig
from bridge.core.message import Event, Position

POSITION = Position("cluster", "topic", 0, 1)
LIMITS = LimitsConfig(max_payload=2_000_000)
TEXT = "ü" * 300_000


@pytest.mark.parametrize(
    ("codec", "data", "claim"),
    [
        (CloudEventsCodec(LIMITS), {"text": TEXT}, {}),
        (CloudEventsCodec(LIMITS), TEXT.encode(), {}),
        (CloudEventsCodec(LIMITS), {"number": 2**70 + 1, "text": TEXT}, {}),
        (CloudEventsBinaryCodec(LIMITS), {"text": TEXT}, {}),
        (CloudEventsBinaryCodec(LIMITS), TEXT.encode(), {}),
        (JsonCodec(LIMITS), {"text": TEXT}, {"header": "dataref"}),
        (BytesCodec(LIMITS), TEXT.encode(), {"header": "dataref"}),
    ],
    ids=["structured", "structured-bytes", "structured-large-integer", "binary", "binary-bytes", "json", "bytes"],
)
async def test_a_source_reads_what_was_published(tmp_path: Path, codec: Any, data: Any, claim: dict[str, str]) -> None:
    directory = tmp_path / "payloads"
    published = PublishedClaims("results", files_store(directory), 262_144, "dataref", "dataref")
    event = Event("id-1", "shop", "done", data, extensions={"tenant": "a"}, headers={"h": "1"})
    messages = [published.apply(event, codec.encode(event)) for _ in range(2)]
    assert messages[0] == messages[1]
    assert len(messages[0].body or b"") < 1000
    (stored,) = directory.iterdir()
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    allow = [f"file://{directory}/"]
    claims = ClaimChecks(ClaimCheckConfig.model_validate({"allow": allow, **claim}), LIMITS.max_payload)
    assert claims.refers(messages[0])
    envelope = codec.decode(await claims.resolve(messages[0]), POSITION)
    assert envelope.data == data
    assert envelope.headers["h"] == "1"
    assert "dataref" not in envelope.extensions
    small = Event("id-2", "shop", "done", b"small" if isinstance(data, bytes) else {"text": "small"})
    assert published.apply(small, codec.encode(small)) == codec.encode(small)
