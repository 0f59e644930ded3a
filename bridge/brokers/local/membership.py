"""Membership of a consumer group, assignment of its partitions to members, and their ownership by locked files.

A member is a file in the group's directory, locked for as long as the member lives. The holder of the lock on a
partition's file owns the partition. Two live members can never own it at once, and the kernel releases the locks of a
killed member.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from bridge.brokers.local.lock import HeldFileLock, is_held
from bridge.system import private


@dataclass(frozen=True, slots=True, order=True)
class GroupMember:
    """A live consumer of a group. Ids sort by the time of joining."""

    id: str
    topics: tuple[str, ...]

    @property
    def process(self) -> str:
        """Host and process id, as daemons are named."""
        return f"{socket.gethostname()}/{self.id.split('-')[1]}"


def assign(members: Sequence[GroupMember], partitions: Mapping[str, int]) -> dict[tuple[str, int], str]:
    """Member id by (topic, partition), as even as the members' topics allow. Pure: every member computes the same.

    partitions: number of partitions by topic. Members take their share in the order of joining, each from the members
    with most partitions. A new member therefore moves no more partitions than it gets.
    """
    owners: dict[tuple[str, int], str] = {}
    held: dict[str, int] = {}
    for member in sorted(members):
        wanted = [(topic, number) for topic in sorted(set(member.topics)) for number in range(partitions.get(topic, 0))]
        held[member.id] = 0
        for place in wanted:
            if place not in owners:
                owners[place] = member.id
                held[member.id] += 1
        while True:
            taken = [place for place in wanted if owners[place] != member.id]
            if not taken:
                break
            place = max(taken, key=lambda place: held[owners[place]])
            if held[owners[place]] < held[member.id] + 2:
                break
            held[owners[place]] -= 1
            held[member.id] += 1
            owners[place] = member.id
    return owners


DIRECTORY = "groups"


class Membership:
    """One member. All methods block on files; all raise OSError."""

    def __init__(self, directory: Path, group: str, topics: tuple[str, ...]) -> None:
        # A group's name may contain any character; the name of its directory may not
        self._group = directory / DIRECTORY / hashlib.sha256(group.encode()).hexdigest()[:32]
        self._members = self._group / "members"
        # Sorts by the time of joining
        self.member = GroupMember(f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}", topics)
        self._presence: HeldFileLock | None = None
        self._owned: dict[int, HeldFileLock] = {}

    def join(self) -> None:
        """Become visible to the other members."""
        self.prepare()
        # Including files of partitions that this member does not own yet
        private.narrow(self._group.glob("*.owner"))
        made = self._group / f"{self.member.id}.new"
        self._presence = HeldFileLock.acquire(made)
        made.write_bytes(orjson.dumps(self.member.topics))
        # Locked before it is visible: a member file without a lock belongs to a dead member
        made.rename(self._members / self.member.id)

    def leave(self) -> None:
        """Release all partitions and leave the group. Idempotent."""
        self.disown(tuple(self._owned))
        if self._presence is not None:
            with contextlib.suppress(OSError):
                (self._members / self.member.id).unlink()
            self._presence.release()
            self._presence = None

    def members(self) -> list[GroupMember]:
        """All live members, including this one; files of dead members are removed."""
        found = [self.member]
        for path in self._members.iterdir():
            if path.name == self.member.id:
                continue
            with contextlib.suppress(FileNotFoundError):
                if is_held(path):
                    found.append(GroupMember(path.name, tuple(orjson.loads(path.read_bytes()))))
                else:
                    path.unlink()
        return found

    def prepare(self) -> None:
        """Create the group's directories."""
        for directory in (self._group.parent, self._group, self._members):
            private.directory(directory)

    def others(self) -> list[GroupMember]:
        """Live members without this one, which need not have joined. Changes nothing."""
        found = []
        for path in self._members.iterdir() if self._members.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if path.name != self.member.id and is_held(path):
                    found.append(GroupMember(path.name, tuple(orjson.loads(path.read_bytes()))))
        return found

    def is_owned(self, partition: int) -> bool:
        """Return whether a member owns the partition with this id."""
        try:
            return is_held(self._group / f"{partition}.owner")
        except FileNotFoundError:
            return False

    def try_own(self, partition: int) -> bool:
        """Own the partition with this id; False while another member owns it."""
        if partition not in self._owned:
            lock = HeldFileLock.try_acquire(self._group / f"{partition}.owner")
            if lock is None:
                return False
            self._owned[partition] = lock
        return True

    def disown(self, partitions: Iterable[int]) -> None:
        """Release the partitions with these ids. Idempotent."""
        for partition in partitions:
            lock = self._owned.pop(partition, None)
            if lock is not None:
                lock.release()
