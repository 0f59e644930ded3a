"""What the bridge's own entities, orchestrations and activities are called, and their keys."""

from __future__ import annotations

import hashlib

PREFIX = "bridge."
"""Entities, orchestrations and activities with such a name are ours; no rule may name one."""

PARKING = "bridge.parking"
"""Entity: what waits for one instance. Its key is that of `target_key`."""

QUARANTINE = "bridge.quarantine"
"""Entity: what waits behind one poisoned ordering key. Its key is that of `ward_key`."""

DEAD_LETTER = "bridge.dead_letter"
"""Orchestration that writes one dead letter, and the activity that it does so with."""

DEAD_LETTER_PACE = "bridge.dead_letter_pace"
"""Entity: pace of the dead letters of one source. Its key is the name of the source."""

_LONGEST = 200
"""Characters of a key, so that `@name@key` fits into the 256 of the storage providers."""

_HASHED = "~h"
"""What the keys of ids begin with that are too long."""


def target_key(instance_id: str) -> str:
    """Key of the parking entity of an instance. `@` cannot be in a key; an id that is too long is hashed.

    No key begins like another, so that a query by prefix finds one entity and no other.
    """
    escaped = key_prefix(instance_id)
    if len(escaped) <= _LONGEST:
        return escaped + "~e"
    return _HASHED + hashlib.sha256(instance_id.encode("utf-8", "surrogatepass")).hexdigest()


def key_prefix(id_prefix: str) -> str:
    """What the keys of the instances begin with whose ids begin so, unless these are hashed."""
    return id_prefix.replace("~", "~~").replace("@", "~a")


def key_prefixes(id_prefix: str) -> tuple[str, ...]:
    """What all keys of such instances begin with, no key with two of them; ids that are hashed can be any."""
    return (key_prefix(id_prefix), _HASHED) if id_prefix else ("",)


def target_id(instance_id: str) -> str:
    """Id of the parking entity of an instance."""
    return f"@{PARKING}@{target_key(instance_id)}"


def quarantine_key(source: str, key: bytes) -> str:
    """Key of the quarantine entity of one ordering key of a source."""
    return f"{quarantine_prefix(source)}{hashlib.sha256(key).hexdigest()[:40]}"


def quarantine_prefix(source: str) -> str:
    """What the keys of all quarantine entities of a source begin with. Names have no `~`."""
    return f"{source}~"


def quarantine_source(key: str) -> str:
    """The source of a quarantine entity, by its key."""
    return key.partition("~")[0]


LETTER_IDS = "bridge:dead-letter:"
"""What the ids of the orchestrations begin with that write dead letters."""


def letter_id(entity_key: str, message: str, since: float) -> str:
    """Id of the orchestration that dead-letters one waiting message: the same when the decision is repeated."""
    mark = hashlib.sha256(f"{entity_key}\n{message}\n{since!r}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{LETTER_IDS}{mark[:40]}"
