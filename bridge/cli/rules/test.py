"""`bridge test`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import PATH, config_options, output_option
from bridge.cli.shared.output import clean, print_json, say
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.config.source import Loaded
    from bridge.testing.fixtures.coverage import Coverage
    from bridge.testing.fixtures.document import Fixture
    from bridge.testing.fixtures.runner import FixtureResult, FixtureRunner


OUTPUT = click.Path(path_type=Path, dir_okay=False)
"""File that is written."""


@make(
    "test",
    effect="reads",
    examples="""
        bridge test
        bridge test tests/orders.yaml -k "large order"
        bridge test --coverage --fail-under 90
        bridge test --junit results.xml --html coverage.html
        bridge topic read orders --json | bridge test --record tests/recorded.yaml --mask payload.customer.name
        bridge test --update                                  # then look at the changes
        bridge test -o json
        bridge test --schema > bridge.tests.schema.json       # for editors
    """,
    exits={
        0: "all tests pass",
        1: "a test fails, the coverage is too low, or messages are left out",
        2: "a fixture or the command line is not valid",
    },
)
@click.argument("paths", nargs=-1, type=PATH, metavar="[PATH]...")
@click.option("-k", "word", metavar="TEXT", help="Run only tests whose file or name contains the text.")
@click.option("--coverage", is_flag=True, help="Report the parts of rules that no test reaches.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Fail if the coverage is lower. Implies --coverage.",
)
@click.option("--html", type=OUTPUT, metavar="FILE", help="Write the coverage as an HTML page. Implies --coverage.")
@click.option("--junit", type=OUTPUT, metavar="FILE", help="Write the results as JUnit XML.")
@click.option("--update", is_flag=True, help="Rewrite the expectations that differ. Comments stay.")
@click.option("--record", type=OUTPUT, metavar="FILE", help="Make tests from the messages on standard input.")
@click.option(
    "--mask", "masks", multiple=True, metavar="MEMBER", help="With --record: replace these values; repeatable."
)
@click.option("--source", metavar="SOURCE", help="With --record: source of the messages.  [default: by their topic]")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of fixture files.")
@output_option(": `text` is `table`", ("text",))
@config_options
def command(
    paths: tuple[Path, ...],
    word: str | None,
    coverage: bool,
    fail_under: float | None,
    html: Path | None,
    junit: Path | None,
    update: bool,
    record: Path | None,
    masks: tuple[str, ...],
    source: str | None,
    schema: bool,
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Run the tests of the rules: fixtures in YAML, each a message with the expected decision, or several steps.

    Everything runs in this process: the rules and workflows of the configuration, local brokers, and an engine with
    virtual time. PATH is a file, or a directory whose *.yaml files are read.  [default: the directory tests of the
    project]
    """
    if schema:
        from bridge.testing.fixtures.model import schema as make_schema

        print_json(make_schema())
        return exit_codes.OK
    from bridge.app.composition import load_config
    from bridge.ops import logging
    from bridge.testing.fixtures.coverage import Coverage
    from bridge.testing.fixtures.document import InvalidFixtures, default_paths, read_fixtures
    from bridge.testing.fixtures.runner import FixtureRunner

    if record is None and (masks or source):
        raise click.UsageError("--mask and --source need --record", click.get_current_context())
    loaded = load_config(config, overlay)
    if record is not None:
        return _record(loaded, record, source, masks)
    try:
        fixtures = read_fixtures(paths or default_paths(loaded.base), loaded.config)
    except InvalidFixtures as error:
        for problem in error.problems:
            say(problem, err=True)
        return exit_codes.USAGE
    chosen = [fixture for fixture in fixtures if fixture.matches(word)]
    if not chosen:
        raise click.UsageError(f"no test contains {word!r} in its file or name", click.get_current_context())
    logging.configure("error", libraries="error")
    measured = Coverage(loaded) if coverage or html is not None or fail_under is not None else None
    runner = FixtureRunner(loaded) if measured is None else FixtureRunner(loaded, measured.observe)
    results = []
    for result in runner.run(chosen):
        results.append(result)
        if output != "json" and not result.passed and not update:
            _print_failure(result)
    if update:
        results = _update(runner, loaded, results, output)
    failed = sum(not result.passed for result in results)
    too_low = measured is not None and fail_under is not None and measured.percent < fail_under
    if output == "json":
        print_json(_document(results) | ({} if measured is None else {"coverage": measured.to_dict()}))
    else:
        say(_summary(results, failed, left_out=len(fixtures) - len(chosen)))
        if measured is not None:
            _print_coverage(measured)
    _write_reports(results, measured, junit, html)
    if measured is not None and too_low:
        click.echo(f"error: the coverage is {_percent(measured)}, less than {fail_under:g} %", err=True)
    return exit_codes.FAILED if failed or too_low else exit_codes.OK


def _update(
    runner: FixtureRunner, loaded: Loaded, results: Sequence[FixtureResult], output: str
) -> list[FixtureResult]:
    from bridge.testing.fixtures.update import update

    before = {result.fixture.name for result in results if not result.passed}
    try:
        found = update(runner, loaded.config, results)
    except OSError as error:
        raise click.FileError(error.filename or "", error.strerror or type(error).__name__) from None
    for result in found:
        if not result.passed and output != "json":
            _print_failure(result)
        elif result.fixture.name in before and output != "json":
            say(f"UPDATED {result.fixture.place} {result.fixture.name}")
    return found


def _record(loaded: Loaded, file: Path, source: str | None, masks: Sequence[str]) -> int:
    from bridge.app.composition import require
    from bridge.core.errors import DecodeError
    from bridge.testing.fixtures.record import InvalidMask, record

    if source is not None:
        require("source", source, loaded.config.sources)
    if file.exists():
        raise click.UsageError(f"{file} exists; name a new file", click.get_current_context())
    try:
        found = record(sys.stdin.buffer, loaded, source, masks, "standard input")
    except InvalidMask as error:
        raise click.UsageError(f"--mask: {error}", click.get_current_context()) from None
    except DecodeError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    if found.count:
        _write(file, found.text)
        say(f"{file}: {plural(found.count, 'test')}. Check that they are what you expect")
    for reason, count in found.left_out.most_common():
        say(f"{plural(count, 'message')} left out: {reason}", err=True)
    if not found.count:
        click.echo("error: no message is recorded", err=True)
    return exit_codes.OK if found.count and not found.left_out else exit_codes.FAILED


def _write_reports(
    results: Sequence[FixtureResult], measured: Coverage | None, junit: Path | None, html: Path | None
) -> None:
    from bridge.testing.fixtures import report

    if junit is not None:
        _write(junit, report.junit(results))
    if html is not None and measured is not None:
        _write(html, report.coverage_html(measured, _percent(measured)))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise click.FileError(str(file), error.strerror or type(error).__name__) from None


def _print_coverage(coverage: Coverage) -> None:
    for point in coverage.uncovered:
        say(point)
    say(f"coverage {_percent(coverage)}, {coverage.covered:,} of {len(coverage.points):,}")


def _percent(coverage: Coverage) -> str:
    """Coverage as text, rounded down: 100 % means that nothing is missing."""
    return f"{int(coverage.percent * 10) / 10:g} %"


def _print_failure(result: FixtureResult) -> None:
    from bridge.cli.rules.route import verdict_row

    say(f"FAIL {result.fixture.place} {result.fixture.name}")
    for line in result.lines():
        say(f"  {line}")
    rows = [verdict_row(rule) for rule in result.rules if rule.verdict != "not considered"]
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, verdict, why in rows:
        say(f"    {name:<{width}}  {verdict:<7}  {clean(why)}".rstrip())


def _summary(results: Sequence[FixtureResult], failed: int, left_out: int) -> str:
    seconds = sum(result.seconds for result in results)
    words = [f"{len(results) - failed:,} passed", *([f"{failed:,} failed"] if failed else [])]
    others = f", {plural(left_out, 'other test')} not run" if left_out else ""
    return f"{', '.join(words)} in {seconds:.2f} s{others}"


def _document(results: Sequence[FixtureResult]) -> dict[str, object]:
    return {
        "ok": all(result.passed for result in results),
        "passed": sum(result.passed for result in results),
        "failed": sum(not result.passed for result in results),
        "tests": [_entry(result.fixture, result) for result in results],
    }


def _entry(fixture: Fixture, result: FixtureResult) -> dict[str, object]:
    return {
        "name": fixture.name,
        "place": fixture.place,
        "passed": result.passed,
        "seconds": round(result.seconds, 6),
        "differences": [{"place": fixture.at(each.path), **each.to_dict()} for each in result.differences],
    }
