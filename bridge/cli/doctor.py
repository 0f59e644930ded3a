"""`bridge doctor`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, output_option
from bridge.cli.shared.output import print_json, print_table, say
from bridge.cli.shared.parameters import PAUSE
from bridge.core.diagnosis import AREAS
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.doctor import Diagnosis


@make(
    "doctor",
    effect="reads",
    examples="""
        bridge doctor
        bridge doctor --only kafka,engine --timeout 5s
        bridge doctor --strict -o json > doctor.json
    """,
    exits={
        0: "no problems",
        1: "there are problems; with --strict, warnings count too",
        3: "the configuration is not valid",
    },
)
@click.option("--only", metavar="AREAS", help=f"Areas to check, separated by commas: {', '.join(AREAS)}.")
@click.option("--timeout", type=PAUSE, default="10s", show_default=True, help="Time limit of each check.")
@click.option("--strict", is_flag=True, help="Warnings count as problems.")
@output_option()
@config_options
def command(
    only: str | None,
    timeout: float,
    strict: bool,
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Check the engine, brokers, topics, permissions, clocks and disks that the bridge needs.

    Each finding comes with the command or setting that fixes it. The command changes nothing: it joins no group,
    receives no message and creates no file or topic. It works before the first start of the daemon, and beside it.
    """
    from bridge.app.composition import load_config
    from bridge.app.doctor import diagnose
    from bridge.core.diagnosis import CheckVerdict

    areas = AREAS if only is None else tuple(part.strip() for part in only.split(","))
    if unknown := [area for area in areas if area not in AREAS]:
        what = f"there is no area {unknown[0]!r} (known: {', '.join(AREAS)})"
        raise click.UsageError(what, click.get_current_context())
    loaded = load_config(config, overlay)
    found = asyncio.run(diagnose(loaded, areas, timeout, lambda text: say(text, err=True)))
    wrong = found.count(CheckVerdict.PROBLEM) + (found.count(CheckVerdict.WARNING) if strict else 0)
    if output == "json":
        counts = {verdict.value: found.count(verdict) for verdict in CheckVerdict}
        print_json({"ok": not wrong, "counts": counts, "checks": [asdict(result) for result in found.results]})
    else:
        _print(found)
    return exit_codes.FAILED if wrong else exit_codes.OK


def _print(found: Diagnosis) -> None:
    from bridge.core.diagnosis import CheckVerdict

    rows = [(result.verdict.value, result.subject, result.check, result.detail) for result in found.results]
    print_table(("RESULT", "SUBJECT", "CHECK", "DETAIL"), rows)
    fixes = [result for result in found.results if result.fix]
    for verdict in (CheckVerdict.PROBLEM, CheckVerdict.WARNING, CheckVerdict.NOT_CHECKED):
        for result in fixes:
            if result.verdict is verdict:
                click.echo()
                say(f"{verdict.value}: {result.subject}, {result.check}")
                for line in result.fix.splitlines():
                    say(f"  {line}")
    click.echo()
    counted = [(found.count(CheckVerdict.PROBLEM), "problem"), (found.count(CheckVerdict.WARNING), "warning")]
    parts = [plural(count, noun) for count, noun in counted if count]
    skipped = found.count(CheckVerdict.NOT_CHECKED)
    if skipped:
        parts.append(f"{skipped} not checked")
    say(", ".join(parts) if parts else f"ok: {plural(len(found.results), 'check')}")
