"""`bridge demo` with the first messages of the day only."""

from __future__ import annotations

import demo.__main__ as day
from bridge.cli import root
from demo.generate import load

MESSAGES = 12


def main() -> None:
    whole = load()
    first = next(number for number, line in enumerate(whole) if "act" in line or line.get("wait"))
    setattr(day, "load", lambda: whole[: min(MESSAGES, first)])  # noqa: B010 - the name is imported, not exported
    root(["demo"])


if __name__ == "__main__":
    main()
