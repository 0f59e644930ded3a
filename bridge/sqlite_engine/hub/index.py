"""Index of a hub: which ids led to which instances and entities, written in the transactions that cause it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.entity import StoredEntity
from bridge.sqlite_engine.model.instance import StoredInstance
from bridge.sqlite_engine.model.values import StringValue
from bridge.sqlite_engine.options import DatabaseOptions, Record
from bridge.sqlite_engine.storage.lineage import count_records, hashes_of, last_record, set_writing
from bridge.sqlite_engine.storage.store import Store
from bridge.sqlite_engine.storage.transaction import Transaction

_STALE = 1000
"""Signals to one entity after which its rows are compared with its state: messages that left it have rows, too."""

MAX_OLD_ROWS = 10_000
"""Rows of an instance with which it may continue as new. Beyond that, it keeps those of its new generation only."""

_SURPLUS = 64
"""Most records that one new record removes, after their limit was lowered."""


class IndexWriter:
    """Writer of the index. All methods run in the writer's thread, inside a transaction.

    `HostRules` name the ids. An instance's rows are deleted with the instance, an entity's with the entity.
    """

    def __init__(self, store: Store, tx: Transaction, options: DatabaseOptions) -> None:
        self.is_on = options.index and options.rules.index is not None
        self._store = store
        self._tx = tx
        self._rules = options.rules
        self._most = options.index_records
        self._counts: Counter[int] = Counter()
        self._seq = 0
        self._signals: Counter[str] = Counter()
        """Signals by entity since its rows were compared with its state."""

    @property
    def records(self) -> int:
        """Number of records."""
        return self._counts.total()

    def load(self, now: int) -> None:
        """Read the state of the index, and record whether it is written from now on. Raises: sqlite3.Error."""
        set_writing(self._store.connection, self.is_on, now)
        self.undo()

    def undo(self) -> None:
        """Read the state again after a rollback. Raises: sqlite3.Error."""
        if self.is_on:
            self._counts = count_records(self._store.connection)
            self._seq = last_record(self._store.connection)

    # Instances

    def started(self, instance: StoredInstance, given: str) -> None:
        """Index an instance by its input."""
        if self.is_on and given and (ids := self._rules.ids_of_start(instance.name, given)):
            self._tx.index_instance(instance, hashes_of(ids))

    def continued(self, instance: StoredInstance, given: str, unread: Iterable[pb.HistoryEvent]) -> None:
        """Index an instance that continues as new with this input and these unread events.

        The rows of earlier generations stay, although their history is gone, unless they are too many.
        """
        if not self.is_on:
            return
        if self._store.has_lineage_rows(instance.key, MAX_OLD_ROWS):
            self._tx.clear(instance, "lineage")
            self._tx.flush()
            for event in unread:
                if event.HasField("eventRaised"):
                    self.raised(instance, event.eventRaised.input)
        self.started(instance, given)

    def raised(self, instance: StoredInstance, data: StringValue | None) -> None:
        """Index an instance by an event."""
        if self.is_on and data is not None and (ids := self._rules.ids_of_event(data.value)):
            self._tx.index_instance(instance, hashes_of(ids))

    def called(self, instance: StoredInstance, activity: str, given: str) -> None:
        """Index an instance by the input of an activity that it calls."""
        if self.is_on and (ids := self._rules.ids_of_activity(activity, given)):
            self._tx.index_instance(instance, hashes_of(ids))

    # Entities

    def signaled(self, entity_id: str, operation: str, given: str, now: int) -> None:
        """Index a signal of a client: by the entity, or as a record."""
        if not self.is_on:
            return
        ids = self._rules.ids_of_operation(_name(entity_id), operation, given)
        if ids:
            self._tx.index_entity(entity_id, hashes_of(ids))
            self._signals[entity_id] += 1
        elif (record := self._rules.record_of_operation(entity_id, operation, given)) is not None:
            self._add(record, now)

    def processed(self, entity: StoredEntity) -> None:
        """Forget messages that left an entity, after many signals."""
        if self._signals and self._signals.get(entity.id, 0) > _STALE:
            del self._signals[entity.id]
            name = _name(entity.id)
            kept = set(self._rules.ids_of_state(name, entity.state or ""))
            for _, event in entity.queue:
                signal = event.entityOperationSignaled
                kept.update(self._rules.ids_of_operation(name, signal.operation, signal.input.value))
            self._tx.reindex_entity(entity.id, hashes_of(kept))

    def removed(self, entity_id: str) -> None:
        """Note that an entity is deleted, and its rows with it."""
        self._signals.pop(entity_id, None)

    # Records

    def is_index(self, entity_id: str) -> bool:
        """True for the id under which clients send records."""
        return self._rules.index is not None and _name(entity_id) == self._rules.index

    def record(self, given: str, now: int) -> None:
        """Add a record that a client sends."""
        if self.is_on and (record := self._rules.record_of(given)) is not None:
            self._add(record, now)

    def _add(self, record: Record, now: int) -> None:
        self._seq += 1
        count = self._counts[record.kind] + 1
        surplus = min(_SURPLUS, max(0, count - self._most))
        self._counts[record.kind] = count - surplus
        self._tx.add_record(self._seq, record.kind, now, hashes_of(record.ids), record.body, surplus)


def _name(entity_id: str) -> str:
    return entity_id[1:].partition("@")[0]
