"""`bridge lint`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.options import EXISTING, config_options
from bridge.cli.output import plural, print_json, print_table


@make(
    "lint",
    examples="""
        bridge lint                                   # the workflow modules of the configuration
        bridge lint workflows/order.py
        bridge lint workflows --sarif > lint.sarif    # for code hosts
        bridge lint --rules
    """,
    exits={0: "nothing was found", 1: "there are findings"},
)
@click.argument("paths", nargs=-1, type=EXISTING, metavar="[FILE|DIR]...")
@click.option("--rules", "list_rules", is_flag=True, help="Print every rule.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.option("--sarif", "as_sarif", is_flag=True, help="SARIF 2.1.0 for code hosts.")
@config_options
def command(
    paths: tuple[Path, ...],
    list_rules: bool,
    as_json: bool,
    as_sarif: bool,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Find what breaks orchestrators on replay, and waits that never end, without running any code.

    Functions that orchestrators call are looked at too, in their own file, in the same package and beside it. Each
    finding is a line `file:line:column rule: what; remedy`. A line is excused by a comment with a reason:

        order = list(names)  # bridge: ignore[unordered] the result is sorted below
    """
    from bridge.lint import RULES, lint, sarif

    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif exclude each other", click.get_current_context())
    if list_rules:
        if as_json:
            print_json(dict(RULES))
        else:
            print_table(("RULE", "WHAT IT IS ABOUT"), list(RULES.items()))
        return exit_codes.OK
    if not paths:
        from bridge.app.composition import load_config
        from bridge.app.lint import workflow_files

        paths = tuple(workflow_files(load_config(config, overlay)))
    findings = lint(paths)
    if as_sarif:
        print_json(sarif(findings))
    elif as_json:
        print_json({"ok": not findings, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(finding)
        click.echo(plural(len(findings), "finding") if findings else "ok: nothing found")
    return exit_codes.FAILED if findings else exit_codes.OK
