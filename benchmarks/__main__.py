"""Run one benchmark, or `all`: `python -m benchmarks NAME [--json]`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys

import benchmarks


def names() -> list[str]:
    """Names of all benchmarks: the modules of this package that have a `run`."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*names(), "all"])
    parser.add_argument("--json", action="store_true", help="one flat JSON object on standard output")
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    for name in names() if chosen.name == "all" else [chosen.name]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = importlib.import_module(f"benchmarks.{name}").run()
        figures |= {f"{name}.{figure}": value for figure, value in found.items()} if chosen.name == "all" else found
    if chosen.json:
        print(json.dumps(figures))
    else:
        for figure, value in figures.items():
            print(f"{figure:40} {value:,.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
