"""`bridge demo` with the first messages of the day only."""

from __future__ import annotations

import sys

import demo.__main__ as day
from bridge.cli import root

MESSAGES = 12


def main() -> None:
    whole = day.load()
    first = next(number for number, line in enumerate(whole) if "act" in line or line.get("wait"))
    day.load = lambda: whole[: min(MESSAGES, first)]
    root(["demo"])


if __name__ == "__main__":
    sys.exit(main())
