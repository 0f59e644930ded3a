"""`bridge engine`: serves the engine itself; one file per command on the engine's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli.command import Group
from bridge.cli.parameters import ADDRESS, DURATION, SIZE


@click.group(
    "engine",
    cls=Group,
    package="bridge.cli.engine",
    members={
        "backup": "Copy the engine's file, also beside a running daemon.",
        "check": "Say what is damaged in the engine's file.",
        "compact": "Give back the space of what was removed.",
        "export": "Write every instance with its history.",
        "reencrypt": "Rewrite payloads under the present key.",
        "restore": "Put a backup in the place of the engine's file.",
    },
    examples="""
        bridge engine --path hubs                              # on 127.0.0.1:8080, like the emulator
        bridge engine --listen 0.0.0.0:8080 --path /var/lib/hubs --token-file token --tls-certificate tls.pem
        bridge engine backup /backups/engine.db
        bridge engine check
        bridge engine compact --path hubs/default.db
        bridge engine export --output instances.jsonl
        bridge engine reencrypt --dry-run
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
    "--tls-certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate, its chain and key, PEM; read again when it changes. TLS is needed beyond loopback.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="The key, if it is in another file.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Authorities, PEM: clients need a certificate of one of them.",
)
@click.option("--behind-tls-proxy", is_flag=True, help="Another process ends TLS before this one.")
@click.option("--max-message", type=SIZE, metavar="SIZE", help="Largest request.  [default: 64MiB]")
@click.option(
    "--max-connections", type=click.IntRange(1), metavar="N", help="Connections at the same time.  [default: 256]"
)
@click.option(
    "--max-hubs", type=click.IntRange(1), metavar="N", help="Task hubs; clients make one by its name.  [default: 100]"
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
    /,
    listen: str | None,
    path: Path | None,
    retention: float | None,
    strict: bool,
    max_hubs: int | None,
    ready_file: Path | None,
    **guard: Any,
) -> int:
    """Serve the embedded engine alone, or maintain its file.

    Without a command it replaces the scheduler's emulator: clients and workers of the Durable Task SDKs reach it on a
    port, and each task hub they name is stored separately. Acknowledged data survives any crash. Ctrl-C or SIGTERM
    stops it with exit code 0; it exits with 3 if it cannot start.

    The commands apply to the file of a configured engine, or to any file by its path.
    """
    if context.invoked_subcommand is not None:
        given = (listen, path, retention, ready_file, max_hubs, *guard.values())
        if strict or any(value not in (None, False) for value in given):
            raise click.UsageError(
                f"options before {context.invoked_subcommand!r} are for serving; write them behind it", context
            )
        return 0
    if path is None:
        raise click.UsageError("name the directory of the task hubs with --path", context)
    if guard["tls_certificate"] is None and (guard["tls_key"] or guard["tls_client_ca"]):
        raise click.UsageError("--tls-key and --tls-client-ca go with --tls-certificate", context)
    from bridge.app.serve.engine_host import make_guard, serve

    return serve(
        listen or "127.0.0.1:8080",
        path,
        guard=make_guard(**guard),
        retention=retention,
        strict=strict,
        max_hubs=max_hubs,
        ready_file=ready_file,
    )
