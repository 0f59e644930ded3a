"""Waiting: early messages by instance, and quarantined messages by ordering key; release and drop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.app.page.visit import Page, Visit, place

_MOST_GROUPS = 200
_MOST_MESSAGES = 20
"""Messages of one instance or key that are shown."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages that wait for one instance, or with one ordering key of a source.

    name: of the instance, or the key. path: page of the instance.
    messages: the oldest; count: number of all.
    """

    name: str
    source: str
    path: str | None
    count: int
    messages: Sequence[Mapping[str, Any]]

    @property
    def first(self) -> Mapping[str, Any]:
        """The oldest message: the cause of the wait of the others."""
        return self.messages[0]


def grouped(messages: Iterable[Mapping[str, Any]]) -> list[Waiting]:
    """Waiting messages by instance, or by source and key; the longest wait first."""
    found: dict[tuple[str | None, str, str | None], list[Mapping[str, Any]]] = {}
    for each in messages:
        by_instance = each["instance_id"] is not None
        key = (each["instance_id"], "" if by_instance else each["source"], None if by_instance else each["key"])
        found.setdefault(key, []).append(each)
    waiting = []
    for (instance_id, _, ordering_key), of in found.items():
        name = instance_id if instance_id is not None else ordering_key or ""
        path = None if instance_id is None else place("instances", instance_id)
        waiting.append(Waiting(name, of[0]["source"], path, len(of), of[:_MOST_MESSAGES]))
    return sorted(waiting, key=lambda each: each.first["since"])


def chosen(messages: Iterable[Mapping[str, Any]], visit: Visit) -> list[Mapping[str, Any]]:
    """Messages that the address selects."""
    filters = {name: visit.query[name] for name in ("source", "route", "reason", "key") if visit.get(name)}
    return [each for each in messages if all(each[name] == value for name, value in filters.items())]


async def _read(visit: Visit) -> Mapping[str, Any]:
    engine, source, prefix = visit.get("engine"), visit.get("source"), visit.get("prefix")
    early = await visit.read("early.list", engine=engine, source=source, prefix=prefix)
    quarantined = await visit.read("quarantine.list", engine=engine, source=source)
    config = visit.loaded.config
    early = [] if visit.get("key") else chosen(early, visit)
    quarantined = [] if prefix else chosen(quarantined, visit)
    by_instance, by_key = grouped(early), grouped(quarantined)
    filters = (("source", "source"), ("routes[]", "route"), ("causes[]", "reason"), ("prefix", "prefix"))
    fields: dict[str, Any] = {field: visit.query[name] for field, name in filters if visit.get(name)}
    return {
        "early": by_instance[:_MOST_GROUPS],
        "quarantined": by_key[:_MOST_GROUPS],
        "early_count": len(early),
        "quarantined_count": len(quarantined),
        "more_early": max(0, len(by_instance) - _MOST_GROUPS),
        "more_quarantined": max(0, len(by_key) - _MOST_GROUPS),
        "reasons": sorted({each["reason"] for each in (*early, *quarantined)}),
        "sources": list(config.sources),
        "routes": [route.name for route in config.routes],
        "engines": list(config.engines),
        # A filter is required for a job. Keys are no filter of one
        "bulk_fields": None if not fields or visit.get("key") else fields | ({"engine": engine} if engine else {}),
        "unprocessed": (await visit.read("early.unprocessed", engine=engine))["count"]
        + (await visit.read("quarantine.unprocessed", engine=engine))["count"],
    }


WAITING = Page("/waiting", "waiting.html", _read, "Waiting")
