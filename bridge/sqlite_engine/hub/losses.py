"""Work items whose worker process died while it ran them: they are counted, run alone, and finally given up.

A loss is counted for each item that a dead process ran. After the second loss an item is suspected. A suspected item
pauses, longer each time, and then runs while its worker runs nothing else. From then on only the culprit is counted.
Activities that wait for other work of their worker (`HostRules.never_alone`) only pause.
Everything runs in the writer's thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from bridge.core.errors import WORKER_LOST
from bridge.sqlite_engine.hub.dispatch import Dispatcher
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Identity, Lease, identity
from bridge.sqlite_engine.hub.working_set import WorkingSet
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.values import text
from bridge.sqlite_engine.options import DatabaseOptions

logger = logging.getLogger(__name__)

SUSPECT = 2
"""Number of losses from which on an item runs alone."""
MAX_PAUSE = 60.0
"""Longest pause of a suspected item, in seconds."""
REMEMBERED = 10_000
"""Number of leases of lost workers whose late answers are recognised."""

_TABLE = """
CREATE TABLE IF NOT EXISTS losses (
    kind    INTEGER NOT NULL,
    subject TEXT NOT NULL,
    lost    INTEGER NOT NULL,
    alone   INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID
"""
"""Table outside of the schema's versions, which older programs ignore."""

_STILL_OPEN = {
    ORCHESTRATION: "SELECT 1 FROM instances WHERE key=? AND finished_at IS NULL",
    ACTIVITY: "SELECT 1 FROM tasks WHERE seq=?",
    ENTITY: "SELECT 1 FROM operations WHERE entity=?",
}


@dataclass(slots=True)
class Loss:
    """Number of workers lost with one item: in total, and while it ran alone."""

    lost: int = 0
    alone: int = 0

    def count(self, *, alone: bool) -> None:
        self.lost += 1
        self.alone += alone

    def revoke(self, *, alone: bool) -> None:
        self.lost -= 1
        self.alone -= alone


class Losses:
    """Losses of a hub, whose suspected items the dispatcher pauses and runs alone."""

    def __init__(self, working: WorkingSet, dispatcher: Dispatcher, options: DatabaseOptions) -> None:
        self._working = working
        self._dispatcher = dispatcher
        self._limit = options.max_lost_workers
        self._pause_seconds = options.loss_pause
        self._counts: dict[Identity, Loss] = {}
        self.revoked: OrderedDict[str, tuple[Identity, bool]] = OrderedDict()
        """Leases of lost workers by token, with their item and whether it ran alone.

        A worker that answers was not lost.
        """
        self._before: dict[Identity, tuple[Loss | None, float | None]] = {}
        """Former values (losses, end of the pause) of the items that the current transaction changes."""
        self._answered: dict[str, tuple[Identity, bool]] = {}

    def load(self) -> None:
        """Read the losses from the file, and delete those of completed work. Raises: sqlite3.Error."""
        connection = self._working.store.connection
        self._counts.clear()
        self.revoked.clear()
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name='losses'").fetchone() is not None:
            for kind, subject, lost, alone in connection.execute(
                "SELECT kind, subject, lost, alone FROM losses"
            ).fetchall():
                key: Identity = (kind, subject if kind == ENTITY else int(subject))
                if connection.execute(_STILL_OPEN[kind], (key[1],)).fetchone() is None:
                    connection.execute("DELETE FROM losses WHERE kind=? AND subject=?", (kind, subject))
                    continue
                # An item that was given up and still exists gets one more attempt with each start.
                self._counts[key] = Loss(lost, min(alone, self._limit - 1))
                self._pause(key)
        self.forget()
        self._listen()

    def forget(self) -> None:
        """Forget the changes of the current transaction at its end."""
        self._before.clear()
        self._answered.clear()

    def undo(self) -> None:
        """Undo the changes of the current transaction."""
        for key, (loss, until) in self._before.items():
            self._counts.pop(key, None)
            if loss is not None:
                self._counts[key] = loss
            self._dispatcher.suspect(key, until)
        self.revoked.update(self._answered)
        self.forget()
        self._listen()

    def crashed(self, item: str) -> None:
        """Count a loss of the item that the previous process ran when it died."""
        kind, mark, subject = int(item[0]), item[1], item[2:]
        key: Identity = (kind, subject if kind == ENTITY else int(subject))
        if self._working.store.connection.execute(_STILL_OPEN[kind], (key[1],)).fetchone() is not None:
            self._count(key, alone=mark == "!")

    def lost(self, lease: Lease) -> bool:
        """Count a loss after a worker died.

        Returns False when the item is given up, True when it is to be queued again.
        """
        key = identity(lease.kind, lease.subject)
        self.revoked[lease.token] = (key, lease.is_alone)
        while len(self.revoked) > REMEMBERED:
            self.revoked.popitem(last=False)
        self._count(key, alone=lease.is_alone)
        return key in self._counts

    def answered(self, token: str) -> None:
        """Revoke the loss of a worker that answers after all."""
        known = self.revoked.pop(token, None)
        loss = None if known is None else self._counts.get(known[0])
        if known is None or loss is None:
            return
        self._answered[token] = known
        key, alone = known
        self._journal(key)
        loss.revoke(alone=alone)
        if loss.lost <= 0:
            self._forget(key)
            return
        if loss.lost < SUSPECT:
            self._dispatcher.suspect(key, None)
        self._store(key, loss)

    def _named(self, key: Identity) -> str:
        """Description of the item for logs."""
        kind, subject = key
        if kind == ENTITY:
            return f"entity {subject}"
        if kind == ACTIVITY:
            row = self._working.store.connection.execute(
                "SELECT name, key FROM tasks WHERE seq=?", (subject,)
            ).fetchone()
            if row is None:
                return "an activity"
            return f"activity {row[0]} of {self._named((ORCHESTRATION, row[1]))}"
        instance = self._working.find_key(int(subject))
        return "an instance" if instance is None else f"{instance.name} {instance.id}"

    def _count(self, key: Identity, *, alone: bool) -> None:
        self._journal(key)
        loss = self._counts.setdefault(key, Loss())
        loss.count(alone=alone)
        logger.warning(
            "A worker ended while it ran %s; lost %d times, %d alone", self._named(key), loss.lost, loss.alone,
            extra={"action": "worker_lost"},
        )  # fmt: skip
        self._store(key, loss)
        self._listen()
        if loss.alone >= self._limit:
            self._give_up(key, loss)
        else:
            self._pause(key)

    def _pause(self, key: Identity) -> None:
        lost = self._counts[key].lost
        if lost >= SUSPECT:
            pause = min(MAX_PAUSE, self._pause_seconds * 2 ** min(lost - SUSPECT, 10))
            self._dispatcher.suspect(key, time.monotonic() + pause)

    def _give_up(self, key: Identity, loss: Loss) -> None:
        working = self._working
        kind, subject = key
        why = (
            f"the worker's process ended {loss.lost} times while it ran, {loss.alone} of them while nothing else ran "
            "there. Look for what ends it: memory, a crash in a C extension, os._exit"
        )
        if kind == ACTIVITY:
            task = working.store.open_task(int(subject))
            self._forget(key)
            if task is not None:
                logger.error("Activity %s failed: %s", task.name, why, extra={"action": "worker_lost"})
                working.fail_task(task, events.failure(WORKER_LOST, f"Activity {task.name!r} is given up: {why}"))
        elif kind == ORCHESTRATION:
            instance = working.find_key(int(subject))
            self._forget(key)
            if instance is not None and not instance.finished and not instance.suspended:
                logger.error("Instance %s is suspended: %s", instance.id, why, extra={"action": "worker_lost"})
                reason = f"A turn is given up: {why}. Then resume the instance"
                instance.suspend(events.failure(WORKER_LOST, reason))
                working.touch(instance)
                working.deliver(instance, events.execution_suspended(working.now, text(reason)))
        else:
            self._dispatcher.suspect(key, math.inf)
            logger.error("Entity %s is held until the next start: %s", subject, why, extra={"action": "worker_lost"})

    def _done(self, lease: Lease) -> None:
        key = identity(lease.kind, lease.subject)
        if key in self._counts:
            self._forget(key)

    def _listen(self) -> None:
        self._dispatcher.report_done_to(self._done if self._counts else None)

    def _journal(self, key: Identity) -> None:
        if key not in self._before:
            loss = self._counts.get(key)
            self._before[key] = (None if loss is None else replace(loss), self._dispatcher.suspected_until(key))

    def _forget(self, key: Identity) -> None:
        self._journal(key)
        self._counts.pop(key, None)
        self._dispatcher.suspect(key, None)
        self._execute("DELETE FROM losses WHERE kind=? AND subject=?", (key[0], str(key[1])))
        self._listen()

    def _store(self, key: Identity, loss: Loss) -> None:
        self._execute(
            "INSERT OR REPLACE INTO losses (kind, subject, lost, alone) VALUES (?, ?, ?, ?)",
            (key[0], str(key[1]), loss.lost, loss.alone),
        )

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        """Execute a statement in the current transaction. Raises: sqlite3.Error."""
        working = self._working
        working.tx.touch()
        working.tx.flush()
        working.store.connection.execute(_TABLE)
        working.store.connection.execute(statement, values)
