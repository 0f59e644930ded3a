"""`bridge worker`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, log_level_option, log_levels
from bridge.system.hang_up import EarlyHangUp


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
    help="File that is written when the daemon is ready, and removed at the end.",
)
@log_level_option
def command(
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    ready_file: Path | None,
    log_level: tuple[tuple[str, str], ...],
) -> int:
    """Run only the workflows, beside one or more `bridge serve --no-worker`.

    Ctrl-C or SIGTERM lets running work finish within the deadline (`ops.drain`); a second signal forces the stop.
    SIGHUP reloads the configuration.
    """
    hang_up = EarlyHangUp()  # before the imports, which take time
    from bridge.app.composition import load_config, own_packages
    from bridge.app.serve.process import serve
    from bridge.app.serve.reload.reloader import Files

    loaded = load_config(config, overlay)
    levels = log_levels(log_level, own_packages(loaded))
    files = Files(config, overlay)
    return serve(loaded, files, intake=False, worker=True, hang_up=hang_up, ready_file=ready_file, log_levels=levels)
