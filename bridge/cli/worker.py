"""`bridge worker`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.command import command as make
from bridge.cli.options import config_options


@make(
    "worker",
    effect="serves",
    examples="""
        bridge worker
        bridge worker -c bridge.yaml --overlay prod.yaml
    """,
    exits={0: "stopped by a signal", 1: "stopped by a failure or by a second signal"},
)
@config_options
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File that is written when everything runs, and removed at the end.",
)
def command(config: tuple[Path, ...], overlay: tuple[Path, ...], ready_file: Path | None) -> int:
    """Run only the workflows, next to one or more `bridge serve --no-worker`.

    Ctrl-C or SIGTERM lets running work finish within the deadline (`ops.drain`); a second signal forces the stop.
    """
    from bridge.app.composition import load_config
    from bridge.app.serve.daemon import serve

    return serve(load_config(config, overlay), intake=False, worker=True, ready_file=ready_file)
