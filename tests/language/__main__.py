"""`python -m tests.language`: numbers and ceilings; `NAME`: places of one rule; `--lower`: writes lower ceilings."""

from __future__ import annotations

import json
import sys

from tests.language.counting import CEILING, ceiling, count, lowered
from tests.language.retired import IDENTIFIERS, PROSE


def main(arguments: list[str]) -> None:
    found = count()
    if arguments == ["--lower"]:
        CEILING.write_text(json.dumps(lowered(found), indent=1, sort_keys=True) + "\n")
        return
    committed = ceiling()
    for kind, name, places in found.rules():
        if name in arguments:
            for file, line, what in places:
                print(f"{file}:{line}: {what}")
        elif not arguments and places:
            successor = (
                IDENTIFIERS.get(name, "") if kind == "identifiers" else PROSE[name][1] if kind == "prose" else ""
            )
            print(f"{kind:12}{name:22}{len(places):6} of {committed[kind].get(name, 0):6}  {successor}")


if __name__ == "__main__":
    main(sys.argv[1:])
