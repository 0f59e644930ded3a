"""Numbers with their nouns, in sentences for people."""

from __future__ import annotations


def plural(count: int, one: str, many: str | None = None) -> str:
    """Count with its noun: `1 route`, `2 routes`, `1 entity`, `2 entities`, `2 keys`.

    many: for words with another form of several, like `start waits` and `starts wait`.
    """
    if count == 1:
        return f"1 {one}"
    has_other_form = one.endswith("y") and one[-2:-1].upper() not in "AEIOU"
    return f"{count:,} {many or (f'{one[:-1]}ies' if has_other_form else f'{one}s')}"
