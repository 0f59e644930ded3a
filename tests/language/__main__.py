"""Places that break a rule of language: `python -m tests.language`."""

from __future__ import annotations

from tests.language.counting import count


def main() -> int:
    found = 0
    for kind, name, places in count().rules():
        for file, line, what in places:
            print(f"{file}:{line}: {kind}, {name}: {what}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
