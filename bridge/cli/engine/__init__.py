"""`bridge engine`: serves by itself, and one file per command on the engine's file."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.command import Group
from bridge.cli.parameters import ADDRESS, DURATION


@click.group(
    "engine",
    cls=Group,
    package="bridge.cli.engine",
    members={
        "backup": "Copy the engine's file, also beside a running daemon.",
        "check": "Say what is damaged in the engine's file.",
        "compact": "Give back the space of what was removed.",
        "export": "Write every instance with its history.",
        "restore": "Put a backup in the place of the engine's file.",
    },
    examples="""
        bridge engine --path hubs                              # on 127.0.0.1:8080, like the emulator
        bridge engine --listen 0.0.0.0:8080 --path /var/lib/hubs --token-file token
        bridge engine backup /backups/engine.db
        bridge engine check
        bridge engine compact --path hubs/default.db
        bridge engine export --output instances.jsonl
    """,
    invoke_without_command=True,
    no_args_is_help=True,
)
@click.option(
    "--listen",
    type=ADDRESS,
    metavar="HOST:PORT",
    help="Where to serve; port 0 is a free one.  [default: 127.0.0.1:8080]",
)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of the task hubs, a file each; made if new.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the bearer token to ask for; needed beyond loopback.",
)
@click.option(
    "--retention", type=DURATION, metavar="TIME", help="Keep finished instances so long.  [default: for ever]"
)
@click.option("--strict", is_flag=True, help="Refuse what goes beyond the limits of the Durable Task Scheduler.")
@click.option(
    "--ready-file", type=click.Path(path_type=Path), metavar="FILE", help="Written once it answers: pid and address."
)
@click.pass_context
def command(
    context: click.Context,
    listen: str | None,
    path: Path | None,
    token_file: Path | None,
    retention: float | None,
    strict: bool,
    ready_file: Path | None,
) -> int:
    """Serve the embedded engine alone, or look after its file.

    Without a command it stands in for the scheduler's emulator: clients and workers of the Durable Task SDKs reach it
    on a port, without TLS, and each task hub that they name is kept apart. What it acknowledged survives any crash.
    Ctrl-C or SIGTERM stops it with exit code 0; it ends with 3 when it cannot start.

    The commands are for the file of a configured engine, or any by its path.
    """
    if context.invoked_subcommand is not None:
        if strict or any(value is not None for value in (listen, path, token_file, retention, ready_file)):
            raise click.UsageError(
                f"options before {context.invoked_subcommand!r} are for serving; write them behind it", context
            )
        return 0
    if path is None:
        raise click.UsageError("name the directory of the task hubs with --path", context)
    from bridge.app.engine_host import serve

    return serve(
        listen or "127.0.0.1:8080",
        path,
        token_file=token_file,
        retention=retention,
        strict=strict,
        ready_file=ready_file,
    )
