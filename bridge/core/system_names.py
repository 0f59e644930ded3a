"""Names and keys of the bridge's own entities, orchestrations and activities."""

from __future__ import annotations

import hashlib
import re

PREFIX = "bridge."
"""Prefix of the bridge's own entities, orchestrations and activities. Rules cannot name one."""

EARLY_MESSAGES = "bridge.parking"
"""Entity: early messages of one instance. Its key is the instance's `target_key`."""

QUARANTINE = "bridge.quarantine"
"""Entity: quarantined messages of one ordering key. Its key is the `quarantine_key`."""

SAGA = "bridge.saga"
"""Orchestration that runs the sagas of the configuration."""

EVALUATE = "bridge.evaluate"
"""Activity that evaluates their expressions."""

DEAD_LETTER = "bridge.dead_letter"
"""Orchestration that writes one dead letter, and the activity that it calls."""

DEAD_LETTER_PACE = "bridge.dead_letter_pace"
"""Entity: pace of the dead letters of one source. Its key is the name of the source."""

SOURCE_PAUSE = "bridge.source_pause"
"""Entity: pause of one source by a person. Its key is the name of the source."""

SOURCE_SEEK = "bridge.source_seek"
"""Entity: moves of the position of one source that its daemons apply. Its key is the name of the source."""

SOURCE_RELOAD = "bridge.source_reload"
"""Entity: reloads of all daemons on an engine. Its only key is SOURCE_RELOAD_KEY. The name makes it one of the entities
that each daemon reads every few seconds.
"""

SOURCE_RELOAD_KEY = "all"

ROUTE_LIMIT = "bridge.route_limit"
"""Entity: temporary limit of one route by a person. Its key is the name of the route."""

CANARY = "bridge.canary"
"""Entity: counts and fallback of one candidate for the rules. Its key is the version of the candidate."""

DEAD_LETTER_STATES = "bridge.dead_letters"
"""Entity: states of the dead letters of one block of offsets. Its key is the `dead_letter_block_key`."""

DEAD_LETTER_BLOCK = 8192
"""Offsets of a partition whose dead letters share one entity."""

JOB = "bridge.job"
"""Orchestration that runs one job, and the entity with the job's record. The key of the entity is the job's id."""

JOB_STEP = "bridge.job.step"
"""Activity: works on a job for some seconds."""

JOB_PAGE = "bridge.job_page"
"""Entity: items of one page of a job, with their results. Its key is the `job_page_key`."""

JOBS = "bridge.jobs"
"""Entity: registry of the jobs of an engine. Its only key is JOBS_KEY."""

JOBS_KEY = "all"

JOB_IDS = "bridge:job:"
"""Prefix of the instance ids of the orchestrations that run jobs."""

JOB_RESULTS = "results"
"""Operation of a page's entity: results by item, `{item: [result, detail]}`. The first final result stays."""

REPLAY = "bridge.replay"
"""Entity: dead letters of one source and origin partition that are replayed. Its key is the `replay_key`."""

REPLAY_EDIT = "bridge.replay_edit"
"""Entity: body of a dead letter as a person has edited it, until its job has read it. Its key is random."""

LINEAGE = "bridge.lineage"
"""Entity through which the lineage index of an embedded engine is read, and gets records. It has no state."""

WORKLOAD = "bridge.workload"
"""Entity through which clients of an embedded engine read the numbers of its work items. It has no state."""

LINEAGE_INDEX = "bridge.lineage_index"
"""Entity: shard of the lineage index of a remote engine. Its key has the number of shards and the shard."""

_LONGEST = 200
"""Most characters of a key: `@name@key` must fit into the 256 characters of the storage providers."""

_HASHED = "~h"
"""Prefix of the keys of ids that are too long."""


def target_key(instance_id: str) -> str:
    """Key of the early-message entity of an instance. `@` is escaped; a key that is too long is hashed.

    No key is a prefix of another: a query by prefix finds exactly one entity.
    """
    escaped = key_prefix(instance_id)
    if len(escaped) <= _LONGEST:
        return escaped + "~e"
    return _HASHED + hashlib.sha256(instance_id.encode("utf-8", "surrogatepass")).hexdigest()


def key_prefix(id_prefix: str) -> str:
    """Common prefix of the keys of instances with this id prefix, unless a key is hashed."""
    return id_prefix.replace("~", "~~").replace("@", "~a")


def key_prefixes(id_prefix: str) -> tuple[str, ...]:
    """Disjoint prefixes of the keys of all instances with this id prefix. A hashed key can belong to any instance."""
    return (key_prefix(id_prefix), _HASHED) if id_prefix else ("",)


def target_id(instance_id: str) -> str:
    """Id of the early-message entity of an instance."""
    return f"@{EARLY_MESSAGES}@{target_key(instance_id)}"


def quarantine_key(source: str, key: bytes) -> str:
    """Key of the quarantine entity of one ordering key of a source."""
    return f"{source_prefix(source)}{hashlib.sha256(key).hexdigest()[:40]}"


def source_prefix(source: str) -> str:
    """Prefix of the keys of all quarantine entities, or replay queues, of a source. Source names have no `~`."""
    return f"{source}~"


def source_of_key(key: str) -> str:
    """Source of a quarantine entity or a replay queue, from its key."""
    return key.partition("~")[0]


def dead_letter_block_key(broker: str, topic: str, partition: int, offset: int) -> str:
    """Key of the entity with the state of one dead letter, by its position in the dead-letter topic.

    Keys of one partition sort by offset.
    """
    return f"{dead_letter_prefix(broker, topic)}{partition}~{offset // DEAD_LETTER_BLOCK:016d}"


def dead_letter_prefix(broker: str, topic: str) -> str:
    """Prefix of the keys of all state entities of a dead-letter topic. Names that are too long are hashed.

    A key of another topic can have the same prefix; see `dead_letter_block`.
    """
    escaped = f"{key_prefix(broker)}~{key_prefix(topic)}"
    if len(escaped) > _LONGEST - 32:
        escaped = _HASHED + hashlib.sha256(f"{broker}\n{topic}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{escaped}~"


def dead_letter_block(prefix: str, key: str) -> tuple[int, int] | None:
    """Partition and first offset of a state entity; None when the key belongs to another topic than the prefix."""
    found = re.fullmatch(r"([0-9]{1,10})~([0-9]{16})", key.removeprefix(prefix))
    return None if found is None else (int(found[1]), int(found[2]) * DEAD_LETTER_BLOCK)


def replay_key(source: str, topic: str | None, partition: int | None) -> str:
    """Key of the replay queue of a source and an origin partition. topic, partition: None if unknown."""
    if topic is None or partition is None:
        return f"{source_prefix(source)}-"
    escaped = key_prefix(topic)
    if len(source) + len(escaped) > _LONGEST - 16:
        escaped = _HASHED + hashlib.sha256(topic.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    return f"{source_prefix(source)}{partition}~{escaped}~e"


def job_instance_id(job: str) -> str:
    """Id of the orchestration that runs a job."""
    return f"{JOB_IDS}{job}"


def job_page_key(job: str, page: int) -> str:
    """Key of the entity with one page of a job. Keys sort by page."""
    return f"{job}~{page:06}"


DEAD_LETTER_IDS = "bridge:dead-letter:"
"""Prefix of the ids of the orchestrations that write dead letters."""


def dead_letter_id(entity_key: str, message: str, since: float) -> str:
    """Id of the orchestration that dead-letters one waiting message. A repeated decision has the same id."""
    mark = hashlib.sha256(f"{entity_key}\n{message}\n{since!r}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{DEAD_LETTER_IDS}{mark[:40]}"
