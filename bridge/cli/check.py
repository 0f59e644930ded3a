"""`bridge check`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.options import EXISTING, config_options, json_option
from bridge.cli.output import plural, print_json, say

if TYPE_CHECKING:
    from bridge.app.check import Report


@make(
    "check",
    effect="reads",
    examples="""
        bridge check
        bridge check bridge.yaml --overlay prod.yaml --strict
        bridge check --no-import untrusted/bridge.yaml        # run none of its code
        bridge check --print                                  # effective values and their origins
        bridge check --schema > bridge.schema.json            # for editors
    """,
    exits={0: "no problems", 1: "there are problems; with --strict, warnings count too"},
)
@click.argument("files", nargs=-1, type=EXISTING, metavar="[FILE|DIR]...")
@click.option("--strict", is_flag=True, help="Warnings count as problems.")
@click.option("--no-import", is_flag=True, help="Import no workflow modules or functions, for untrusted changes.")
@click.option(
    "--print",
    "print_",
    is_flag=True,
    help="Print the effective configuration with the origin of each value, without secrets.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration.")
@json_option
@config_options
def command(
    files: tuple[Path, ...],
    strict: bool,
    no_import: bool,
    print_: bool,
    schema: bool,
    as_json: bool,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Find every problem of a configuration at once, without a network.

    Each problem is a line `file:line:column path: what`; the last line is a summary. The command compiles rules,
    reads schema files and imports workflow modules. It thus also finds orchestrations that no worker runs.
    """
    if print_ and schema:
        raise click.UsageError("use either --print or --schema", click.get_current_context())
    if schema:
        from bridge.config.json_schema import schema as make_schema

        print_json(make_schema())
        return exit_codes.OK
    if print_:
        return _print_effective((*config, *files), overlay)
    from bridge.app.check import check

    report = check((*config, *files), overlay, imports=not no_import)
    wrong = report.errors + (report.warnings if strict else 0)
    if as_json:
        problems = [asdict(problem) for problem in report.problems]
        print_json({"ok": not wrong, "problems": problems, "counts": report.counts})
    else:
        for problem in report.problems:
            say(problem)
        click.echo(_summary(report, wrong > 0))
    return exit_codes.FAILED if wrong else exit_codes.OK


def _print_effective(config: tuple[Path, ...], overlay: tuple[Path, ...]) -> int:
    from bridge.app.composition import load_config
    from bridge.core.errors import ConfigError

    try:
        click.echo(load_config(config, overlay).effective(), nl=False)
    except ConfigError as error:
        for problem in error.problems:
            say(problem, err=True)
        return exit_codes.FAILED
    return exit_codes.OK


def _summary(report: Report, wrong: bool) -> str:
    found = [plural(count, noun) for count, noun in ((report.errors, "problem"), (report.warnings, "warning")) if count]
    if wrong:
        return ", ".join(found)
    counts = [plural(count, noun) for noun, count in report.counts.items() if count]
    return "; ".join(filter(None, (": ".join(filter(None, ("ok", ", ".join(counts)))), ", ".join(found))))
