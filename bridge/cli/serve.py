"""`bridge serve`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import PATH, config_options, log_level_option, log_levels
from bridge.system.hang_up import EarlyHangUp

ready_file_option = click.option(
    "--ready-file",
    type=PATH,
    metavar="FILE",
    help="File that is written when the daemon is ready, and removed at the end.",
)
"""Decorator with the option `ready_file`."""


@make(
    "serve",
    effect="serves",
    examples="""
        bridge serve                                   # bridge.yaml or config/bridge.yaml
        bridge serve -c bridge.yaml --overlay prod.yaml
        bridge serve --no-worker                       # workflows run in `bridge worker`
        bridge serve --log-level debug --log-level aiokafka=info
    """,
    exits={0: "stopped by a signal", 1: "stopped by a failure or by a second signal"},
)
@config_options
@click.option("--no-worker", is_flag=True, help="Only consume and route; run no workflows in this process.")
@ready_file_option
@log_level_option
def command(
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    no_worker: bool,
    ready_file: Path | None,
    log_level: tuple[tuple[str, str], ...],
) -> int:
    """Run the daemon: consume the sources, call the engine, run the workflows.

    The daemon prints what it consumes and the address of its health endpoint. Ctrl-C or SIGTERM drains and stops it
    within the deadline (`ops.drain`); a second signal forces the stop. SIGHUP reloads the configuration.
    """
    return run(config, overlay, ready_file, log_level, intake=True, worker=not no_worker)


def run(
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    ready_file: Path | None,
    log_level: tuple[tuple[str, str], ...],
    *,
    intake: bool,
    worker: bool,
) -> int:
    """Run a daemon, or with `intake=False` a worker; return the exit code."""
    hang_up = EarlyHangUp()  # before the imports, which take time
    from bridge.app.composition import load_config, own_packages
    from bridge.app.serve.process import serve
    from bridge.app.serve.reload.reloader import Files

    loaded = load_config(config, overlay)
    levels = log_levels(log_level, own_packages(loaded))
    files = Files(config, overlay)
    return serve(loaded, files, intake=intake, worker=worker, hang_up=hang_up, ready_file=ready_file, log_levels=levels)
