"""Numbers with their nouns, in sentences for people."""

from __future__ import annotations


def plural(count: int, one: str, many: str | None = None) -> str:
    """Count with its noun: `1 route`, `2 routes`, `1 entity`, `2 entities`.

    many: for words with another form of several, like `key` and `keys`, `start waits` and `starts wait`.
    """
    if count == 1:
        return f"1 {one}"
    return f"{count:,} {many or (f'{one[:-1]}ies' if one.endswith('y') else f'{one}s')}"
