"""`bridge worker`."""

from __future__ import annotations

from pathlib import Path

from bridge.cli.serve import ready_file_option, run
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, log_level_option


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
@ready_file_option
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
    return run(config, overlay, ready_file, log_level, intake=False, worker=True)
