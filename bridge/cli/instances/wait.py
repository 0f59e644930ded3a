"""`bridge instances wait`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import click

from bridge.cli import exit_codes
from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.instances.show import print_instance
from bridge.cli.options import json_option
from bridge.cli.output import print_json
from bridge.cli.parameters import DURATION


@make(
    "wait",
    effect="reads",
    examples="""
        bridge instances wait order-1001
        bridge instances wait order-1001 --for start --timeout 10s
    """,
    exits=EXITS
    | {
        0: "the instance has completed (or started, with --for start)",
        1: "the instance failed, was terminated or does not exist, or the time has passed",
    },
)
@click.argument("instance_id", metavar="ID")
@click.option(
    "--for",
    "until",
    type=click.Choice(["start", "completion"]),
    default="completion",
    show_default=True,
    help="Event to wait for.",
)
@click.option("--timeout", type=DURATION, default="60s", show_default=True, metavar="T", help="Longest wait.")
@json_option
@engine_options
def command(
    instance_id: str, until: Literal["start", "completion"], timeout: float, as_json: bool, **engine: Any
) -> int:
    """Wait until an orchestration has started or finished, and show it."""
    one = on_instances(engine, lambda instances: instances.wait(instance_id, until, timeout))
    if one is None:
        word = "started" if until == "start" else "finished"
        click.echo(f"error: {instance_id} has not {word} after {timeout:g}s", err=True)
        return exit_codes.FAILED
    if as_json:
        print_json(asdict(one))
    else:
        print_instance(one)
    wrong = until == "completion" and one.status != "COMPLETED"
    return exit_codes.FAILED if wrong else exit_codes.OK
