"""Calls whose answers wait: for the start or the end of an instance, or for the end of a turn in flight."""

from __future__ import annotations

from dataclasses import dataclass

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.instance import PENDING, StoredInstance
from bridge.sqlite_engine.model.reply import Reply


@dataclass(slots=True, eq=False)
class Waiter:
    reply: Reply
    payloads: bool
    for_start: bool

    def satisfied_by(self, instance: StoredInstance) -> bool:
        return instance.finished or (self.for_start and instance.status != PENDING)


class Waiters:
    """Waiting calls by instance id, which are answered after the commit of the change that they wait for."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[Waiter]] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._by_id.values())

    def add(self, instance_id: str, waiter: Waiter) -> None:
        waiting = self._by_id.setdefault(instance_id, [])
        # The call runs again when another operation in its transaction failed.
        waiting[:] = [each for each in waiting if each.reply is not waiter.reply]
        waiting.append(waiter)

    def discard(self, instance_id: str, reply: Reply) -> None:
        """Remove the waiter of a caller that has gone."""
        waiting = [waiter for waiter in self._by_id.get(instance_id, ()) if waiter.reply is not reply]
        if waiting:
            self._by_id[instance_id] = waiting
        else:
            self._by_id.pop(instance_id, None)

    def notify(self, instance: StoredInstance) -> list[tuple[Reply, pb.GetInstanceResponse]]:
        """Remove and return the answers that are due after a change of the instance."""
        waiting = self._by_id.get(instance.id)
        if not waiting:
            return []
        if instance.finished:
            notified, rest = waiting, []
        elif instance.status == PENDING:
            return []
        else:
            notified = [waiter for waiter in waiting if waiter.for_start]
            rest = [waiter for waiter in waiting if not waiter.for_start]
        if rest:
            self._by_id[instance.id] = rest
        else:
            del self._by_id[instance.id]
        return [(waiter.reply, found(instance, waiter.payloads)) for waiter in notified]

    def end(self, instance_id: str) -> None:
        """Answer the waiters of a deleted instance that it does not exist."""
        for waiter in self._by_id.pop(instance_id, ()):
            waiter.reply.settle(pb.GetInstanceResponse(exists=False))

    def take_all(self) -> list[Waiter]:
        """Remove and return all waiters; the caller answers them."""
        waiting = [waiter for each in self._by_id.values() for waiter in each]
        self._by_id.clear()
        return waiting


def found(instance: StoredInstance, payloads: bool) -> pb.GetInstanceResponse:
    return pb.GetInstanceResponse(exists=True, orchestrationState=instance.state(payloads))


@dataclass(frozen=True, slots=True)
class DeferredRaise:
    """Raise whose answer is deferred: its reply, its instance, and the sequence number of its event."""

    reply: Reply
    instance_id: str
    seq: int


class DeferredRaises:
    """Raises that are answered when the turn in flight has ended, by key of the instance."""

    def __init__(self) -> None:
        self._by_key: dict[int, tuple[DeferredRaise, ...]] = {}
        self._before: dict[int, tuple[DeferredRaise, ...]] = {}
        """Former values of the keys that the current transaction has changed."""

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: int) -> tuple[DeferredRaise, ...]:
        return self._by_key.get(key, ())

    def add(self, key: int, deferred: DeferredRaise) -> None:
        before = self._by_key.get(key, ())
        self._before.setdefault(key, before)
        self._by_key[key] = (*before, deferred)

    def take(self, key: int) -> tuple[DeferredRaise, ...]:
        """Remove and return the raises of an instance; the caller answers them."""
        taken = self._by_key.pop(key, ())
        if taken:
            self._before.setdefault(key, taken)
        return taken

    def take_all(self) -> list[DeferredRaise]:
        """Remove and return all raises; the caller answers them."""
        self._before = {**self._by_key, **self._before}
        taken = [each for deferred in self._by_key.values() for each in deferred]
        self._by_key.clear()
        return taken

    def undo(self) -> None:
        """Undo the changes of the current transaction."""
        self._by_key.update(self._before)

    def forget(self) -> None:
        """Forget the former values at the end of a transaction."""
        self._before.clear()
