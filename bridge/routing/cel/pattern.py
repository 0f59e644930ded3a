"""Size of regular expressions in the syntax of RE2, which `matches` uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOKEN = re.compile(
    r"""
      (?P<class>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\])
    | (?P<unicode>\\[pP](?:\{[^}]*\}|.))
    | (?P<quoted>\\Q(?P<text>.*?)(?:\\E|\Z))
    | (?P<escape>\\x\{[^}]*\}|\\.)
    | (?P<flags>\(\?[imsU-]*\))
    | (?P<open>\((?:\?(?:P?<\w+>|[imsU-]*:))?)
    | (?P<close>\))
    | (?P<repeat>\{(?P<least>\d+)(?:,(?P<most>\d*))?\})
    | (?P<loop>[*+?])
    | (?P<bar>\|)
    | (?P<atom>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """Size of a regular expression.

    states: number of characters and classes, multiplied by their repetitions.
    wide: number of those that are Unicode classes or case-insensitive classes, whose automata are large.
    """

    states: int
    wide: int


def measure(pattern: str) -> Pattern:
    """Upper bound of the size of a pattern. For an invalid pattern the result is arbitrary."""
    stack: list[tuple[int, int]] = []
    total = wide_total = 0
    last = wide_last = 0  # size of the item that a repetition would repeat
    folds = bool(re.search(r"\(\?[msU]*i", pattern))
    for found in TOKEN.finditer(pattern):
        kind = found.lastgroup
        if kind == "repeat":
            times = max(int(found["least"][:8]), int((found["most"] or "0")[:8]), 1)
            times += found["most"] == ""
            grown = min(last * times, _MOST)
            total += grown - last
            last = grown
            grown = min(wide_last * times, _MOST)
            wide_total += grown - wide_last
            wide_last = grown
        elif kind == "open":
            stack.append((total, wide_total))
            last = wide_last = 0
        elif kind == "close":
            before, wide_before = stack.pop() if stack else (0, 0)
            last, wide_last = total - before, wide_total - wide_before
        elif kind == "quoted":
            last, wide_last = len(found["text"]), 0
            total += last
        elif kind in ("class", "unicode", "escape", "atom"):
            text = found.group()
            last = 1
            wide_last = int(
                kind == "unicode"
                or (kind == "class" and ("\\p" in text or "\\P" in text or folds))
                or not text.isascii()
            )
            total += 1
            wide_total += wide_last
        total, wide_total = min(total, _MOST), min(wide_total, _MOST)
    return Pattern(total + 1, wide_total)


def required(pattern: str) -> Iterator[str]:
    """Characters and classes of which a match of the pattern has one each; not all of them, and none if unsure."""
    items = list(TOKEN.finditer(pattern))
    if any(item.lastgroup in ("bar", "flags", "quoted") or item.group().startswith("(?") for item in items):
        return
    depth = 0
    for at, item in enumerate(items):
        depth += (item.lastgroup == "open") - (item.lastgroup == "close")
        if depth == 0 and item.lastgroup in ("class", "escape", "atom") and not is_optional(items, at):
            yield item.group()


def is_optional(items: Sequence[re.Match[str]], at: int) -> bool:
    """True if the item of a pattern is followed by a repetition that allows none of it."""
    if at + 1 == len(items):
        return False
    following = items[at + 1]
    return following.group() in ("*", "?") or (following.lastgroup == "repeat" and not int(following["least"][:8]))
