"""Readers beside the writer, each with a thread and a connection of its own that sees committed data.

The reader answers queries over many instances or entities, which may take long. The index warm-up makes one pass over
a large file's index of ids after the start, which saves the first calls disk reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.core.errors import EngineError
from bridge.sqlite_engine.model.instance import FINISHED, StoredInstance
from bridge.sqlite_engine.model.reply import Rejection, Reply, internal, invalid_argument, not_found, unavailable
from bridge.sqlite_engine.model.values import micros, text, timestamp
from bridge.sqlite_engine.storage.lineage import begin_of, search
from bridge.sqlite_engine.storage.payloads import STATE, Payloads
from bridge.sqlite_engine.storage.schema import AFTER_ALL, INSTANCE_COLUMNS, connect
from bridge.sqlite_engine.storage.store import REPORTED, instance_of, unreadable_instance

logger = logging.getLogger(__name__)

PAGE = 100
MAX_PAGE = 1000
CHUNK_BYTES = 512 * 1024
"""Size of a history chunk, in bytes, at which the next chunk begins."""

_KEY = "@"
"""Prefix of the page keys of `ListInstanceIds`. No instance id begins with it."""

MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""Largest page of more than one row, in bytes: clients refuse messages over 4 MiB."""

MAX_SEARCHES = 1000
"""Most searches of the index in one query."""

MAX_IDS = 16
"""Most ids of one search that mean the same."""

FRAME_BYTES = 8
"""Bytes that a row adds to its message beside its own."""


class Queries:
    """Handlers of queries, one method each. All run in the reader's thread."""

    def __init__(self, connection: sqlite3.Connection, payloads: Payloads, index: str | None = None) -> None:
        """Create the handlers. index: name of the entity through which the index is read (`HostRules.index`)."""
        self._connection = connection
        self._payloads = payloads
        self._index = None if index is None else f"@{index}@"

    def instances(self, request: pb.QueryInstancesRequest) -> pb.QueryInstancesResponse:
        query = request.query
        prefix = query.instanceIdPrefix.value
        # The plus keeps SQLite from scanning all keys where the index on ids finds the few matches.
        where = ["+key > ?" if prefix else "key > ?"]
        values: list[Any] = [_cursor(query.continuationToken.value)]
        _statuses(where, values, query.runtimeStatus)
        _between(where, values, "created_at", query, "createdTimeFrom", "createdTimeTo")
        if query.HasField("createdTimeFrom"):
            where.append("key >= (SELECT min(key) FROM instances INDEXED BY instances_created WHERE created_at >= ?)")
            values.append(micros(query.createdTimeFrom))
        if prefix:
            where.append("id >= ? AND id < ?")
            values += [prefix, prefix + AFTER_ALL]
        limit = min(query.maxInstanceCount, MAX_PAGE) if query.maxInstanceCount > 0 else MAX_PAGE
        rows = self._connection.execute(
            f"SELECT {INSTANCE_COLUMNS} FROM instances WHERE {' AND '.join(where)} ORDER BY key LIMIT ?",  # noqa: S608 -- fixed parts
            (*values, limit + 1),
        )
        states: list[pb.OrchestrationState] = []
        size, last, more = 0, 0, False
        for row in rows:
            instance = self._instance(row)
            state = instance.state(query.fetchInputsAndOutputs)
            size += state.ByteSize() + FRAME_BYTES
            if states and (len(states) >= limit or size > MAX_PAGE_BYTES):
                more = True
                break
            last = instance.key
            states.append(state)
        token = text(str(last)) if more else None
        return pb.QueryInstancesResponse(orchestrationState=states, continuationToken=token)

    def _instance(self, row: tuple[Any, ...]) -> StoredInstance:
        """Instance of a row. An unreadable payload must not keep the other instances from being listed."""
        try:
            return instance_of(row, self._payloads)
        except DecodeError as error:
            found = unreadable_instance(row)
            logger.error("Stored payloads of instance %s cannot be read: %s", found.id, error)
            return found

    def ids(self, request: pb.ListInstanceIdsRequest) -> pb.ListInstanceIdsResponse:
        where = ["finished_at IS NOT NULL"]
        values: list[Any] = []
        if request.lastInstanceKey.value:
            where.append("(finished_at, id) > (?, ?)")
            values += self._place(request.lastInstanceKey.value)
        _statuses(where, values, request.runtimeStatus)
        _between(where, values, "finished_at", request, "completedTimeFrom", "completedTimeTo")
        limit = min(request.pageSize, MAX_PAGE) if request.pageSize > 0 else PAGE
        rows = self._connection.execute(
            f"SELECT finished_at, id FROM instances WHERE {' AND '.join(where)} ORDER BY finished_at, id LIMIT ?",  # noqa: S608 -- fixed parts
            (*values, limit + 1),
        ).fetchall()
        page: list[str] = []
        size = 0
        for _, instance_id in rows:
            size += len(instance_id.encode()) + FRAME_BYTES
            if page and (len(page) >= limit or size > MAX_PAGE_BYTES):
                break
            page.append(instance_id)
        # Clients stop at a page without ids, and some start over at a page without a key.
        token = text(f"{_KEY}{rows[len(page) - 1][0]}|{page[-1]}") if page else None
        return pb.ListInstanceIdsResponse(instanceIds=page, lastInstanceKey=token)

    def _place(self, key: str) -> tuple[int, str]:
        """Position in the order of finished instances that a page key or an instance's id names.

        Raises: Rejection.
        """
        if not key.startswith(_KEY):
            row = self._connection.execute("SELECT finished_at FROM instances WHERE id=?", (key,)).fetchone()
            if row is not None and row[0] is not None:
                return row[0], key
        # Keys from an earlier version have no prefix.
        moment, separator, instance_id = key.removeprefix(_KEY).partition("|")
        if separator and _is_number(moment):
            return int(moment), instance_id
        raise invalid_argument("lastInstanceKey is neither one that this engine gave nor the id of a finished instance")

    def entities(self, request: pb.QueryEntitiesRequest) -> pb.QueryEntitiesResponse:
        query = request.query
        token = query.continuationToken.value
        where = ["id > ?"]
        values: list[Any] = [token]
        if query.instanceIdStartsWith.value:
            prefix = query.instanceIdStartsWith.value
            name, separator, key = prefix[1:].partition("@")
            prefix = f"@{name.lower()}{separator}{key}" if prefix.startswith("@") else f"@{prefix.lower()}"
            if self._index is not None and prefix.startswith(self._index):
                return self._search_results(key)
            # One lower bound: SQLite takes either of two for the index, and may read all ids before the prefix
            where = ["id > ?" if token >= prefix else "id >= ?", "id < ?"]
            values = [max(token, prefix), prefix + AFTER_ALL]
        _between(where, values, "modified_at", query, "lastModifiedFrom", "lastModifiedTo")
        if not query.includeTransient:
            where.append("state IS NOT NULL")
        limit = min(query.pageSize.value, MAX_PAGE) if query.pageSize.value > 0 else MAX_PAGE
        columns = "id, state, owner, modified_at, (SELECT count(*) FROM operations WHERE entity = entities.id)"
        rows = self._connection.execute(
            f"SELECT {columns} FROM entities WHERE {' AND '.join(where)} ORDER BY id LIMIT ?",  # noqa: S608 -- fixed parts
            (*values, limit + 1),
        )
        found: list[pb.EntityMetadata] = []
        size, more = 0, False
        for entity_id, state, owner, modified_at, backlog in rows:
            metadata = pb.EntityMetadata(
                instanceId=entity_id,
                lastModifiedTime=timestamp(modified_at),
                backlogQueueSize=backlog,
                lockedBy=text(owner),
                serializedState=text(self._state(entity_id, state)) if query.includeState else None,
            )
            size += metadata.ByteSize() + FRAME_BYTES
            if found and (len(found) >= limit or size > MAX_PAGE_BYTES):
                more = True
                break
            found.append(metadata)
        following = text(found[-1].instanceId) if more else None
        return pb.QueryEntitiesResponse(entities=found, continuationToken=following)

    def _search_results(self, key: str) -> pb.QueryEntitiesResponse:
        """Results of searches in the index, as the state of an entity.

        key: JSON list of searches; each is a list of ids that mean the same. No entity while the index is not written.
        Raises: Rejection.
        """
        begin = begin_of(self._connection)
        if begin is None:
            return pb.QueryEntitiesResponse()
        try:
            wanted = json.loads(key)
            if not isinstance(wanted, list) or len(wanted) > MAX_SEARCHES:
                raise ValueError
            hits = [search(self._connection, self._payloads, [str(id_) for id_ in ids][:MAX_IDS]) for ids in wanted]
        except (ValueError, TypeError, RecursionError):
            raise invalid_argument("a search of the index is not a JSON list of at most 1,000 lists") from None
        except DecodeError as error:
            raise internal(f"A record of the index cannot be read: {error}") from None
        state = json.dumps({"begin": [begin.key, begin.at], "found": [asdict(each) for each in hits]})
        return pb.QueryEntitiesResponse(
            entities=[pb.EntityMetadata(instanceId=f"{self._index}found", serializedState=text(state))]
        )

    def _state(self, entity_id: str, stored: str | bytes | None) -> str | None:
        """Decrypt the state of an entity.

        An entity shown without its state would look like one that has none. Raises: Rejection.
        """
        try:
            return self._payloads.text(stored, STATE, entity_id)
        except DecodeError as error:
            raise internal(f"The state of entity {entity_id} cannot be read: {error}") from None

    def history(self, request: pb.StreamInstanceHistoryRequest) -> list[pb.HistoryChunk]:
        """History of the instance, in chunks that fit a message."""
        row = self._connection.execute("SELECT key FROM instances WHERE id=?", (request.instanceId,)).fetchone()
        if row is None:
            raise not_found(request.instanceId)
        try:
            return list(self._chunks(row[0]))
        except DecodeError as error:
            raise internal(f"The history of {request.instanceId} cannot be read: {error}") from None

    def _chunks(self, key: int) -> Iterator[pb.HistoryChunk]:
        piece = pb.HistoryChunk()
        size = 0
        rows = self._connection.execute("SELECT chunk, events FROM history WHERE key=? ORDER BY chunk", (key,))
        for chunk, stored in rows:
            for event in self._payloads.events(stored, (key, chunk)):
                length = event.ByteSize()
                if size and size + length > CHUNK_BYTES:
                    yield piece
                    piece, size = pb.HistoryChunk(), 0
                piece.events.append(event)
                size += length
        if size:
            yield piece


def _statuses(where: list[str], values: list[Any], statuses: Any) -> None:
    """Add a condition on the statuses to the query.

    Finished and open instances have an index each; only a query for both reads every row.
    """
    wanted = set(statuses)
    if not wanted:
        return
    marks = ",".join("?" * len(wanted))
    if wanted <= FINISHED:
        where.append(
            "key IN (SELECT key FROM instances INDEXED BY instances_finished"  # noqa: S608 -- only marks
            f" WHERE finished_at IS NOT NULL AND status IN ({marks}))"
        )
    else:
        if not wanted & FINISHED:
            where.append("finished_at IS NULL")
        where.append(f"{REPORTED} IN ({marks})")
    values += sorted(wanted)


def _between(where: list[str], values: list[Any], column: str, message: Any, start: str, end: str) -> None:
    if message.HasField(start):
        where.append(f"{column} >= ?")
        values.append(micros(getattr(message, start)))
    if message.HasField(end):
        where.append(f"{column} < ?")
        values.append(micros(getattr(message, end)))


def _cursor(token: str) -> int:
    if not token:
        return 0
    if not _is_number(token):
        raise invalid_argument("continuationToken is not one that this engine gave")
    return int(token)


def _is_number(value: str) -> bool:
    """True for digits that SQLite can store as an integer."""
    return value.isascii() and value.isdecimal() and len(value) <= 18


class QueryThread:
    """Runner of queries, one after the other, on a read-only connection."""

    def __init__(self, path: Path, name: str, payloads: Payloads, index: str | None = None) -> None:
        self._connection = connect(path)
        self._connection.execute("PRAGMA query_only=ON")
        self._connection.execute("PRAGMA cache_size=-4096")
        self.queries = Queries(self._connection, payloads, index)
        self._queue: SimpleQueue[tuple[Callable[[Any], Any], Any, Reply] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the connection. Idempotent."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._connection.close()

    def submit(self, question: Callable[[Any], Any], request: Any, reply: Reply) -> None:
        self._queue.put((question, request, reply))

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            question, request, reply = job
            try:
                outcome = question(request)
            except Rejection as rejection:
                outcome = rejection.with_traceback(None)
            except sqlite3.Error as error:
                outcome = unavailable(f"The engine's file cannot be read: {error}")
            except Exception as error:
                logger.exception("A question to the engine failed")
                outcome = error
            reply.settle(outcome)


STEP = 20_000
"""Largest number of ids that one statement reads. While it runs, the write-ahead log cannot be reset."""


class IndexWarmup:
    """Thread that reads every page of the index by which each start finds its id, and then ends.

    Ids are mostly random, and each start needs another page of the index. The pages stay in the operating system's
    cache; SQLite's own cache belongs to one connection.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}-warmup", daemon=True)
        self.read = 0
        """Number of ids read so far."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # The warm-up only saves time. Errors of the file are reported elsewhere.
        with contextlib.suppress(sqlite3.Error, EngineError), contextlib.closing(connect(self._path)) as connection:
            connection.execute("PRAGMA cache_size=-512")
            last: str | None = ""
            while last is not None and not self._stopped.is_set():
                count, last = connection.execute(
                    "SELECT count(*), max(id) FROM (SELECT id FROM instances WHERE id > ? ORDER BY id LIMIT ?)",
                    (last, STEP),
                ).fetchone()
                self.read += count
