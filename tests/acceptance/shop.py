"""Sample shop on a shared cluster."""

from __future__ import annotations

from pathlib import Path

TOPICS = ("orders", "payments", "shipments", "order-results", "parcel-alerts")


def rename_topics(config: Path, prefix: str) -> None:
    """Rename topics and groups of the sample configuration in this directory to unique names."""
    file = config / "bridge.yaml"
    text = file.read_text()
    for topic in TOPICS:
        text = text.replace(f"topics: [{topic}]", f"topics: [{prefix}-{topic}]\n    group: {prefix}")
        text = text.replace(f"topic: {topic}}}", f"topic: {prefix}-{topic}}}")
    assert text.count(prefix) >= len(TOPICS)
    file.write_text(text)
