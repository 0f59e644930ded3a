"""Check of time zone names in expressions, before the CEL library looks them up.

The library opens the file that a name leads to, also `/dev/stdin` or a pipe, where reading blocks the process. It
also keeps every name forever. Expressions are therefore rewritten when they are compiled. A name that is not a
literal is replaced by one that no zone has, unless it is short and stays in the directory of zones.
"""

from __future__ import annotations

from bridge.routing.cel.tokens import closing_bracket, tokens

METHODS = frozenset(
    (
        "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds",
        "getMinutes", "getMonth", "getSeconds",
    )
)  # fmt: skip
_BEFORE = "cel.bind(zone_, "
_BEHIND = (
    ", zone_.size() <= 40 && !zone_.startsWith('/') && !zone_.startsWith('file:') && !zone_.contains('..')"
    " ? zone_ : 'none')"
)


def checked(text: str) -> str:
    """Rewrite an expression to check every computed time zone name. The text must compile."""
    found = tokens(text)
    pieces: list[tuple[int, str]] = []
    for at in range(1, len(found) - 2):
        if found[at - 1].text != "." or found[at].text not in METHODS or found[at + 1].text != "(":
            continue
        first, last = at + 2, closing_bracket(found, at + 1)
        if first == last or (last == first + 1 and found[first].kind == "string"):
            continue
        pieces += (found[first].start, _BEFORE), (found[last - 1].end, _BEHIND)
    for position, piece in sorted(pieces, key=lambda each: each[0], reverse=True):
        text = text[:position] + piece + text[position:]
    return text
