"""`bridge lint`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import CODE_HOSTS, PATH, config_options, output_option
from bridge.cli.shared.output import print_json, print_table, say
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.config.source import Loaded
    from bridge.lint import Examined


@make(
    "lint",
    effect="reads",
    examples="""
        bridge lint                                   # the workflow modules of the configuration
        bridge lint workflows/order.py
        bridge lint --format sarif > lint.sarif       # for code hosts
        bridge lint --format github                   # annotations in GitHub Actions
        bridge lint --rules
    """,
    exits={0: "no findings", 1: "there are findings"},
)
@click.argument("paths", nargs=-1, type=PATH, metavar="[FILE|DIR]...")
@click.option("--rules", "list_rules", is_flag=True, help="Print every rule.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Older form of -o sarif.")
@output_option(CODE_HOSTS, ("text", "sarif", "github"))
@config_options
def command(
    paths: tuple[Path, ...],
    list_rules: bool,
    as_sarif: bool,
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Find code that breaks orchestrators on replay, and waits that never end, without running any code.

    Functions that orchestrators call are analysed too, in their own file, in the same package and next to it. Each
    finding is a line `file:line:column rule: finding; remedy`. With a configuration (`-c`, or `bridge.yaml` here),
    names of targets, activities, orchestrations and entities are checked against it. A comment with a reason suppresses
    the findings of its line:

        order = list(names)  # bridge: ignore[unordered] the result is sorted below
    """
    from bridge.lint import RULES, examine, github, sarif

    if as_sarif:
        if output not in ("table", "sarif"):
            raise click.UsageError("use either --sarif or -o", click.get_current_context())
        output = "sarif"
    if list_rules:
        if output in ("sarif", "github"):
            raise click.UsageError(f"the form {output} is for findings only", click.get_current_context())
        if output == "json":
            print_json(dict(RULES))
        else:
            print_table(("RULE", "MEANING"), list(RULES.items()))
        return exit_codes.OK
    loaded = _configuration(config, overlay, required=not paths or bool(config))
    names = None
    if loaded is not None:
        from bridge.app.check.workflows import names as names_of
        from bridge.app.check.workflows import workflow_files

        names = names_of(loaded)
        paths = paths or tuple(workflow_files(loaded))
    found = examine(paths, names)
    if output == "sarif":
        print_json(sarif(found.findings, found.orchestrators))
    elif output == "json":
        counts = {"orchestrators": found.orchestrators, "others": found.others}
        print_json({"ok": not found.findings, **counts, "findings": [asdict(one) for one in found.findings]})
    else:
        for line in github(found.findings) if output == "github" else found.findings:
            say(line)
        click.echo(_summary(found))
    return exit_codes.FAILED if found.findings else exit_codes.OK


def _configuration(config: tuple[Path, ...], overlay: tuple[Path, ...], *, required: bool) -> Loaded | None:
    """Configuration in which names are looked up; None if it is optional and cannot be read."""
    from bridge.app.composition import load_config
    from bridge.core.errors import ConfigError

    try:
        return load_config(config, overlay)
    except ConfigError:
        if required:
            raise
        return None


def _summary(found: Examined) -> str:
    if found.findings:
        return plural(len(found.findings), "finding")
    others = f", {plural(found.others, 'helper')} with a context" if found.others else ""
    return f"ok: {plural(found.orchestrators, 'orchestrator')}{others}, no findings"
