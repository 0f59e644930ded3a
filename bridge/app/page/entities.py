"""Entities: durable states by name and key, and signals to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.app.page.visit import Page, Visit, place
from bridge.core.system_names import PREFIX

_SHOWN = 200


async def _read(visit: Visit) -> Mapping[str, Any]:
    found = await visit.read(
        "entities.list",
        engine=visit.get("engine"),
        entity=visit.get("entity"),
        key_prefix=visit.get("prefix") if visit.get("entity") else None,
    )
    own = visit.get("own") == "1"
    chosen = [each for each in found if own or not each["entity"].startswith(PREFIX)]
    return {
        "entities": [each | {"path": place("entities", each["entity"], each["key"])} for each in chosen[:_SHOWN]],
        "all": len(chosen),
        "hidden": len(found) - len(chosen),
        "engines": list(visit.loaded.config.engines),
    }


async def _read_one(visit: Visit) -> Mapping[str, Any]:
    found = await visit.read("entities.show", engine=visit.get("engine"), **visit.parts)
    locked = found["locked_by"]
    return {
        "entity": found,
        "lock": None if locked is None else place("instances", locked),
        "is_own": found["entity"].startswith(PREFIX),
    }


ENTITIES = Page("/entities", "entities.html", _read, "Entities")
ONE_ENTITY = Page("/entities/{entity}/{key}", "entity.html", _read_one)
