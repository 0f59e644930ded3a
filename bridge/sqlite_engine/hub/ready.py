"""Work that is ready for a worker, by name and version."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

Group = tuple[str, str | None]
"""Name and version of work."""

Names = dict[str, frozenset[str]]
"""Accepted versions by name; an empty set accepts every version."""


def accepts(names: Names | None, group: Group) -> bool:
    if names is None:
        return True
    versions = names.get(group[0])
    return versions is not None and (not versions or (group[1] or "") in versions)


class ReadyQueue:
    """Work of one kind that waits for a worker, oldest first per name and version."""

    def __init__(self) -> None:
        self._groups: dict[Group, deque[tuple[int, Hashable]]] = {}
        self.members: set[Hashable] = set()
        self._order = 0

    def __len__(self) -> int:
        return len(self.members)

    def add(self, name: str, version: str | None, item: Hashable) -> None:
        """Queue the item, unless it is queued already."""
        if item in self.members:
            return
        self.members.add(item)
        self._order += 1
        group = self._groups.get((name, version))
        if group is None:
            group = self._groups[(name, version)] = deque()
        group.append((self._order, item))

    def take(
        self, names: Names | None, permits: Callable[[Group], bool] | None = None
    ) -> tuple[str, str | None, Hashable] | None:
        """Remove and return the oldest item that the names accept and `permits` allows, or None."""
        best: Group | None = None
        order = 0
        for group_key, group in self._groups.items():
            is_older = best is None or group[0][0] < order
            if is_older and accepts(names, group_key) and (permits is None or permits(group_key)):
                best, order = group_key, group[0][0]
        if best is None:
            return None
        group = self._groups[best]
        item = group.popleft()[1]
        if not group:
            del self._groups[best]
        self.members.discard(item)
        return (*best, item)

    def sizes(self) -> list[tuple[Group, int]]:
        """Number of items by name and version."""
        return [(group, len(queue)) for group, queue in self._groups.items()]

    def clear(self) -> None:
        self._groups.clear()
        self.members.clear()

    def take_all(self) -> list[tuple[str, str | None, Hashable]]:
        """Remove and return all items, oldest first per name and version."""
        taken = [(*group, item) for group, queue in self._groups.items() for _, item in queue]
        self.clear()
        return taken
