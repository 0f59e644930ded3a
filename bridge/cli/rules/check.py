"""`bridge check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import CODE_HOSTS, PATH, config_options, output_option
from bridge.cli.shared.output import print_json, print_table, say
from bridge.cli.shared.parameters import RATES
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.check.configuration import Report
    from bridge.app.check.cost import CostLine
    from bridge.app.check.fixes import FixedFile

_ROUNDS = 5
"""Most rounds of corrections of `--fix`."""


@make(
    "check",
    effect="reads",
    examples="""
        bridge check
        bridge check bridge.yaml --overlay prod.yaml --strict
        bridge check --no-import untrusted/bridge.yaml        # run none of its code
        bridge check --samples samples                        # rules that no sample reaches
        bridge check --schemas old.avsc new.avsc              # expressions that do not fit both versions
        bridge check --schemas main/orders-value@3 main/orders-value@latest --source orders
        bridge check --fix                                    # correct mechanical mistakes
        bridge check --format github                          # annotations in GitHub Actions
        bridge check --codes                                  # all kinds of messages
        bridge check --print                                  # effective values and their origins
        bridge check --schema > bridge.schema.json            # for editors
        bridge check --cost --rate 100/s                      # actions that a scheduler bills
    """,
    exits={
        0: "no problems",
        1: "there are problems; with --strict, warnings count too",
        3: "a registry of --schemas does not answer",
    },
)
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE|DIR]...")
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
    help="With --cost: rate of messages, `100/s` for each route or `orders=5/m` for one; repeatable.",
)
@click.option(
    "--samples",
    type=PATH,
    multiple=True,
    metavar="FILE|DIR",
    help="Messages in the form of `bridge publish --jsonl` or `bridge topic read --json`; report rules that none of "
    "them reaches. Repeatable.",
)
@click.option(
    "--schemas",
    nargs=2,
    metavar="OLD NEW",
    help="Two versions of a schema, as files or as REGISTRY/SUBJECT@VERSION; report expressions that do not fit one.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME", help="With --schemas: only this source; repeatable."
)
@click.option("--fix", is_flag=True, help="Correct mechanical mistakes in the files, and print the changes.")
@click.option("--dry-run", is_flag=True, help="With --fix: print the changes only.")
@click.option("--codes", is_flag=True, help="Print every code.")
@output_option(CODE_HOSTS, ("text", "sarif", "github"))
@config_options
def command(
    files: tuple[Path, ...],
    strict: bool,
    no_import: bool,
    print_: bool,
    schema: bool,
    cost: bool,
    rates: tuple[tuple[str | None, float], ...],
    samples: tuple[Path, ...],
    schemas: tuple[str, str] | None,
    sources: tuple[str, ...],
    fix: bool,
    dry_run: bool,
    codes: bool,
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Find all problems of a configuration at once, without a network (except for schemas in a registry).

    Each problem is a line `file:line:column CODE path: message`; the last line is a summary. The command compiles
    rules, reads schema files and imports workflow modules, so it also finds orchestrations that no worker runs.

    A comment with a reason on the line of a warning, or above it, suppresses the warning:

        instance_id: nightly-report  # bridge: ignore[R005] one report runs at a time
    """
    _check_options(print_, schema, cost, codes, fix, dry_run, bool(rates), output)
    if codes:
        return _print_codes(output)
    if schema:
        from bridge.config.json_schema import schema as make_schema

        print_json(make_schema())
        return exit_codes.OK
    if print_:
        return _print_effective((*config, *files), overlay)
    from bridge.app.check.configuration import check
    from bridge.app.check.schemas import SchemaVersions
    from bridge.core.errors import RegistryUnavailable

    if sources and schemas is None:
        raise click.UsageError("--source needs --schemas", click.get_current_context())
    paths = (*config, *files)
    versions = None if schemas is None else SchemaVersions(*schemas, sources)

    def run() -> Report:
        return _with_inputs(lambda: check(paths, overlay, imports=not no_import, samples=samples, schemas=versions))

    try:
        report = run()
    except RegistryUnavailable as error:
        say(f"error: --schemas: {error}", err=True)
        return exit_codes.UNAVAILABLE
    if fix:
        report = _fix(report, run, dry_run=dry_run, err=output not in ("text", "table"))
    if cost and not report.errors:
        return _cost(paths, overlay, rates, output == "json")
    wrong = report.errors + (report.warnings if strict else 0)
    _print_report(report, output, wrong > 0)
    return exit_codes.FAILED if wrong else exit_codes.OK


def _check_options(
    print_: bool, schema: bool, cost: bool, codes: bool, fix: bool, dry_run: bool, rates: bool, output: str
) -> None:
    wrong = None
    if print_ + schema + cost + codes > 1:
        wrong = "use one of --print, --schema, --cost and --codes"
    elif fix and (print_ or schema or cost or codes):
        wrong = "--fix cannot be combined with --print, --schema, --cost and --codes"
    elif rates and not cost:
        wrong = "--rate needs --cost"
    elif dry_run and not fix:
        wrong = "--dry-run needs --fix"
    elif output in ("sarif", "github") and (print_ or schema or cost or codes):
        wrong = f"the form {output} is for problems only"
    if wrong is not None:
        raise click.UsageError(wrong, click.get_current_context())


def _with_inputs(run: Callable[[], Report]) -> Report:
    """Report of a check. A sample or version that cannot be read is a wrong use of the command."""
    from bridge.app.check.schemas import UnusableVersion
    from bridge.core.errors import DecodeError

    try:
        return run()
    except DecodeError as error:
        raise click.UsageError(f"--samples: {error}", click.get_current_context()) from None
    except UnusableVersion as error:
        raise click.UsageError(f"--schemas: {error}", click.get_current_context()) from None
    except OSError as error:
        what = f"--samples: {error.filename}: {error.strerror or type(error).__name__}"
        raise click.UsageError(what, click.get_current_context()) from None


def _fix(report: Report, run: Callable[[], Report], *, dry_run: bool, err: bool) -> Report:
    """Make the changes that correct mechanical mistakes, and print them. Returns the report of what is left.

    run: checks the configuration again. A mistake may come to light when another one is corrected.
    """
    from bridge.app.check.fixes import FixedFile, fixes, write

    changed: dict[Path, FixedFile] = {}
    for _ in range(1 if dry_run else _ROUNDS):
        found = [] if report.loaded is None else fixes(report.loaded, report.problems)
        if not found:
            break
        for fixed in found:
            first = changed.get(fixed.path, fixed)
            changed[fixed.path] = FixedFile(fixed.path, first.old, fixed.new)
            if not dry_run:
                _write(write, fixed)
        report = report if dry_run else run()
    for fixed in changed.values():
        say(fixed.diff().removesuffix("\n"), err=err)
    return report


def _write(write: Callable[[FixedFile], None], fixed: FixedFile) -> None:
    try:
        write(fixed)
    except OSError as error:
        raise click.FileError(str(fixed.path), error.strerror or type(error).__name__) from None


def _print_codes(output: str) -> int:
    from bridge.core.problems.codes import CODES

    if output == "json":
        print_json(
            [
                {"code": code.name, "severity": code.severity, "summary": code.summary, "page": code.anchor}
                for code in CODES.values()
            ]
        )
    else:
        print_table(("CODE", "SEVERITY", "MEANING"), [(c.name, c.severity, c.summary) for c in CODES.values()])
    return exit_codes.OK


def _print_report(report: Report, output: str, wrong: bool) -> None:
    from bridge.app.check import report as check_report

    if output == "json":
        print_json(check_report.document(report, ok=not wrong))
    elif output == "sarif":
        print_json(check_report.sarif(report))
    else:
        for line in check_report.github_annotations(report) if output == "github" else report.problems:
            say(line)
        click.echo(_summary(report, wrong))


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
    from bridge.app.check.cost import cost, total
    from bridge.app.composition import load_config

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
