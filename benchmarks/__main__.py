"""Run one benchmark, or `all`: `python -m benchmarks NAME [--json] [--page FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import benchmarks


def names() -> list[str]:
    """Names of all benchmarks: the modules of this package that have a `run`."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def machine() -> str:
    """Sentence about this machine, with its load before a measurement."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    text = f"Measured on {datetime.now(UTC):%Y-%m-%d}: {cores} cores, {platform.machine()}, Python "
    text += f"{platform.python_version()}, load {load:.1f} before."
    if load > cores / 2:
        text += " **Other programs kept the machine busy: use the processor times and ratios of them alone.**"
    return text


def fill(page: Path, figures: Mapping[str, float], measured: str) -> None:
    """Write figures into the tables of a page: into the last cell of each row that begins with the name of one."""
    lines = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        figure = figures.get(cells[1].strip(" `")) if len(cells) > 3 else None
        if figure is not None:
            digits = 0 if figure >= 100 else 1 if figure >= 10 else 2
            cells[-2] = f" {figure:,.{digits}f} "
            lines.append("|".join(cells))
        else:
            lines.append(measured if line.startswith("Measured on ") else line)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*names(), "all"])
    parser.add_argument("--json", action="store_true", help="one flat JSON object on standard output")
    parser.add_argument("--page", type=Path, help="also write the figures into the tables of this page")
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    measured = machine()
    for name in names() if chosen.name == "all" else [chosen.name]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with redirect_stdout(sys.stderr):  # logs
            found = importlib.import_module(f"benchmarks.{name}").run()
        figures |= {f"{name}.{figure}": value for figure, value in found.items()} if chosen.name == "all" else found
    if chosen.page is not None:
        fill(chosen.page, figures, measured)
    if chosen.json:
        print(json.dumps(figures))
    else:
        for figure, value in figures.items():
            print(f"{figure:40} {value:,.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
