"""Places that break a rule of language: `python -m tests.language`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.language.counting import Found, count
from tests.language.retired import IDENTIFIERS, PROSE


def broken(found: Found) -> Iterator[str]:
    """Yield a line for each place that breaks a rule, with the remedy."""
    for kind, name, places in found.rules():
        successor = {"identifiers": IDENTIFIERS.get(name), "prose": PROSE.get(name, (None, None))[1]}.get(kind)
        remedy = "open with a noun phrase or an imperative verb" if successor is None else f"write {successor}"
        yield from (f"{file}:{line}: {kind}, {name}: {what}; {remedy}" for file, line, what in places)


def main() -> int:
    lines = list(broken(count()))
    print("".join(f"{line}\n" for line in lines), end="")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
