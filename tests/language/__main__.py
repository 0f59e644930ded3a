"""Places that break a rule of language: `python -m tests.language`."""

from __future__ import annotations

from tests.language.counting import count


def main() -> None:
    for kind, name, places in count().rules():
        for file, line, what in places:
            print(f"{file}:{line}: {kind}, {name}: {what}")


if __name__ == "__main__":
    main()
