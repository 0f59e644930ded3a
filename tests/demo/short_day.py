"""`make demo KEEP=1` with the first messages of the day only, and the one that the page is to repair."""

from __future__ import annotations

import sys

from demo.__main__ import main
from demo.generate import load

MESSAGES = 12

if __name__ == "__main__":
    day = load()
    first = next(number for number, line in enumerate(day) if "act" in line or line.get("wait"))
    broken = next(line for line in day if line.get("event", {}).get("data", {}).get("total") == "twelve")
    sys.exit(main(keep=True, lines=[*day[: min(MESSAGES, first)], broken]))
