"""`bridge check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import EXISTING, config_options, output_option
from bridge.cli.shared.output import plural, print_json, say
from bridge.cli.shared.parameters import RATES

if TYPE_CHECKING:
    from bridge.app.check import Report
    from bridge.app.cost import CostLine


@make(
    "check",
    effect="reads",
    examples="""
        bridge check
        bridge check bridge.yaml --overlay prod.yaml --strict
        bridge check --no-import untrusted/bridge.yaml        # run none of its code
        bridge check --print                                  # effective values and their origins
        bridge check --schema > bridge.schema.json            # for editors
        bridge check --cost --rate 100/s                      # actions that a scheduler bills
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
@click.option("--cost", is_flag=True, help="Count the actions that the Durable Task Scheduler bills per message.")
@click.option(
    "--rate",
    "rates",
    type=RATES,
    multiple=True,
    metavar="[ROUTE=]RATE",
    help="With --cost: messages, like `100/s` of each route or `orders=5/m` of one, to add up; repeatable.",
)
@output_option()
@config_options
def command(
    files: tuple[Path, ...],
    strict: bool,
    no_import: bool,
    print_: bool,
    schema: bool,
    cost: bool,
    rates: tuple[tuple[str | None, float], ...],
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Find every problem of a configuration at once, without a network.

    Each problem is a line `file:line:column path: what`; the last line is a summary. The command compiles rules,
    reads schema files and imports workflow modules. It thus also finds orchestrations that no worker runs.
    """
    if print_ + schema + cost > 1:
        raise click.UsageError("use one of --print, --schema and --cost", click.get_current_context())
    if rates and not cost:
        raise click.UsageError("--rate needs --cost", click.get_current_context())
    as_json = output == "json"
    if schema:
        from bridge.config.json_schema import schema as make_schema

        print_json(make_schema())
        return exit_codes.OK
    if print_:
        return _print_effective((*config, *files), overlay)
    from bridge.app.check import check

    report = check((*config, *files), overlay, imports=not no_import)
    if cost and not report.errors:
        return _cost((*config, *files), overlay, rates, as_json)
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


def _cost(
    config: tuple[Path, ...], overlay: tuple[Path, ...], rates: tuple[tuple[str | None, float], ...], as_json: bool
) -> int:
    from bridge.app.composition import load_config
    from bridge.app.cost import cost, total

    found = cost(load_config(config, overlay))
    every = [rate for route, rate in rates if route is None]
    summed = total(found, every[-1] if every else None, {route: rate for route, rate in rates if route is not None})
    if as_json:
        sums = {"rates": summed.rates, "per_second": summed.per_second, "per_minute": summed.per_minute}
        sums |= {
            "indexed_per_second": summed.indexed,
            "per_30_days": summed.per_month,
            "fits": summed.fits,
            "left_out": list(summed.left_out),
        }
        print_json(asdict(found) | {"total": sums if rates else None})
        return exit_codes.OK
    for route in found.routes:
        billed = "" if route.billed else ", embedded: nothing is billed"
        say(f"route {route.route}: {plural(route.actions, 'action')} per message (engine {route.engine}{billed})")
        _print_lines(route.lines)
        for note in route.notes:
            say(f"        {note}")
    for saga in found.sagas:
        say(f"saga {saga.saga}: {saga.success} actions if it succeeds, {saga.compensated} if all is compensated")
        _print_lines(saga.lines)
    if found.waiting:
        say("waiting and failing messages:")
        _print_lines(found.waiting)
    if rates:
        own = [f"{rate:g}/s of {route}" for route, rate in rates if route is not None]
        each = "each other route" if own else "each route"
        say(f"at {', '.join(own + [f'{rate:g}/s of {each}' for rate in every[-1:]])}:")
        say(f"  {summed.per_second:,.1f} actions/s, {summed.per_minute:,.0f}/min, {summed.per_month:,.0f} in 30 days")
        if summed.indexed:
            say(f"  {summed.indexed:,.1f} of these actions/s for the lineage index, with one process")
        say(f"  {summed.fits}")
        if summed.left_out:
            say(f"  left out: {', '.join(summed.left_out)} (answers, counted with the workflow that awaits them)")
    return exit_codes.OK


def _print_lines(lines: Sequence[CostLine]) -> None:
    for line in lines:
        say(f"  {line.actions:>4}  {line.what}{f' ({line.when})' if line.when else ''}")


def _summary(report: Report, wrong: bool) -> str:
    found = [plural(count, noun) for count, noun in ((report.errors, "problem"), (report.warnings, "warning")) if count]
    if wrong:
        return ", ".join(found)
    counts = [plural(count, noun) for noun, count in report.counts.items() if count]
    return "; ".join(filter(None, (": ".join(filter(None, ("ok", ", ".join(counts)))), ", ".join(found))))
