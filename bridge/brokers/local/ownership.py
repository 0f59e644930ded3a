"""Partitions of the group that this member owns, as members join and leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from bridge.brokers.base import Listener
from bridge.brokers.local.commits import Commits
from bridge.brokers.local.encoding import CommittedPosition
from bridge.brokers.local.membership import GroupMember, Membership, assign
from bridge.brokers.local.partition import LocalPartition
from bridge.brokers.local.threads import LogReader
from bridge.brokers.local.waker import Wake, Waker
from bridge.brokers.positions import Move, Moved, Place
from bridge.core.errors import BrokerError

_log = logging.getLogger(__name__)

Make = Callable[[int, str, int, CommittedPosition, int], LocalPartition]
"""Callback that creates a partition from its id, topic, number, and the group's position and stamp."""


class Ownership:
    """Partitions of one subscription."""

    def __init__(
        self,
        *,
        membership: Membership,
        places: Mapping[str, Sequence[int]],
        reader: LogReader,
        waker: Waker,
        listener: Listener,
        commits: Commits,
        make: Make,
        revoke_timeout: float,
    ) -> None:
        """Create the ownership, without partitions.

        places: ids of the partitions by topic.
        make: creates a partition.
        revoke_timeout: seconds for the listener to finish.
        """
        self.partitions: dict[int, LocalPartition] = {}
        """Owned partitions by id, including those being revoked until their release."""
        self._membership = membership
        self._places = places
        self._reader = reader
        self._waker = waker
        self._listener = listener
        self._commits = commits
        self._make = make
        self._revoke_timeout = revoke_timeout
        self._turn = asyncio.Lock()
        """Serializes changes of the partitions."""
        self._counts = {topic: len(ids) for topic, ids in places.items()}

    async def join(self) -> None:
        """Join the group. Raises: BrokerUnavailable."""
        await self._reader.run(self._membership.join)
        self._waker.notify(Wake.MEMBERS)

    async def rebalance(self) -> bool:
        """Release partitions of other members and take this member's; return whether any were taken. Raises:
        BrokerUnavailable.
        """
        async with self._turn:
            return await self._rebalance()

    async def _rebalance(self) -> bool:
        members = await self._reader.run(self._membership.members)
        owners = assign(members, await self._known(members))
        me = self._membership.member.id
        wanted = {
            self._places[topic][number]: (topic, number) for (topic, number), owner in owners.items() if owner == me
        }
        await self._revoke([partition for key, partition in self.partitions.items() if key not in wanted])
        missing = {key: place for key, place in wanted.items() if key not in self.partitions}
        return bool(missing) and await self._take(missing)

    async def _known(self, members: Sequence[GroupMember]) -> dict[str, int]:
        """Partition counts of all members' topics. With fewer topics, members would compute different assignments."""
        if any(topic not in self._counts for member in members for topic in member.topics):
            self._counts = await self._reader.query(lambda log: log.topics())
        return self._counts

    async def _revoke(self, lost: list[LocalPartition]) -> None:
        if not lost:
            return
        await self._stop(lost)
        for partition in lost:
            del self.partitions[partition.id]
        await self._reader.run(lambda: self._membership.disown([partition.id for partition in lost]))
        self._waker.notify(Wake.MEMBERS)

    async def _stop(self, lost: list[LocalPartition]) -> None:
        """Finish deliveries in flight, and commit for the last time."""
        for partition in lost:
            partition.drain()
        try:
            async with asyncio.timeout(self._revoke_timeout):
                await self._listener.revoked(lost)
        except TimeoutError:
            _log.warning("records of %s are still in flight and will be repeated by their new owner", _names(lost))
        except Exception:
            _log.exception("the listener failed when %s were revoked", _names(lost))
        for partition in lost:
            # Set before the last commit: no delivery may complete after it
            partition.revoke()
        try:
            await self._commits.commit()
        except BrokerError as error:
            _log.warning("completed records of %s will be repeated by their new owner: %s", _names(lost), error)

    async def move(self, moves: Mapping[Place, Move]) -> dict[Place, Moved]:
        """See `MovableSubscription.move`. Raises: BrokerUnavailable."""
        async with self._turn:
            mine = {(each.topic, each.number): each for each in self.partitions.values() if not each.revoked}
            old = [each for place, each in mine.items() if place in moves and each.stamp < moves[place].stamp]
            before = await self._move(old, moves) if old else {}
            return {
                (each.topic, each.number): Moved(move.to, before.get(each.id))
                for each in self.partitions.values()
                if (move := moves.get((each.topic, each.number))) is not None and each.stamp >= move.stamp
            }

    async def _move(self, old: list[LocalPartition], moves: Mapping[Place, Move]) -> dict[int, int]:
        """Move the position of owned partitions; return the positions before by partition id."""
        await self._stop(old)
        given = {each.id: moves[each.topic, each.number] for each in old}
        group = self._commits.group
        try:
            # Behind the last commit: the writer keeps the order
            return await self._commits.writer.submit(
                lambda log: {key: log.move(group, key, move) for key, move in given.items()}
            )
        finally:
            # The lock of the partition stays. Without an answer the next rebalance takes the partition again
            for partition in old:
                del self.partitions[partition.id]
            await self._take({each.id: (each.topic, each.number) for each in old})

    async def _take(self, missing: dict[int, tuple[str, int]]) -> bool:
        free = await self._reader.run(lambda: [key for key in missing if self._membership.try_own(key)])
        if not free:
            return False
        group = self._commits.group
        try:
            # Read while owned: the last owner's final commit is included
            positions = await self._reader.query(
                lambda log: {key: (log.position(group, key), log.stamp(group, key)) for key in free}
            )
        except BrokerError:
            await self._reader.run(lambda: self._membership.disown(free))
            raise
        taken = [self._make(key, *missing[key], *positions[key]) for key in free]
        try:
            await self._listener.assigned(taken)
        except Exception:
            _log.exception("the listener failed when %s were assigned", _names(taken))
        self.partitions.update((partition.id, partition) for partition in taken)
        return True

    async def leave(self) -> None:
        """Commit completed deliveries, then release all partitions without notifying the listener. Idempotent."""
        for partition in self.partitions.values():
            partition.drain()
            partition.revoke()
        try:
            await self._commits.commit()
        except BrokerError as error:
            _log.warning("completed records of %s will be repeated: %s", _names(list(self.partitions.values())), error)
        self.partitions.clear()
        await self._reader.run(self._membership.leave)
        self._waker.notify(Wake.MEMBERS)


def _names(partitions: Sequence[LocalPartition]) -> str:
    return ", ".join(f"{partition.topic}/{partition.number}" for partition in partitions) or "no partitions"
