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
        "backup": "Back up the engine's file, also while a daemon runs.",
        "check": "Check the engine's file for damage.",
        "compact": "Return the space of removed data to the disk.",
        "export": "Write all instances with their histories.",
        "reencrypt": "Encrypt all payloads with the current key.",
        "restore": "Replace the engine's file with a backup.",
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
    help="Address to listen on; port 0 selects a free port.  [default: 127.0.0.1:8080]",
)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of the task hubs, one file each; created if missing.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the bearer token for clients; required beyond loopback.",
)
@click.option(
    "--tls-certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file of the certificate, its chain and its key; reloaded when it changes. TLS is "
    "required beyond loopback.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file of the key, if it is not in the certificate's file.",
)
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file of authorities; each client then needs a certificate of one of them.",
)
@click.option("--behind-tls-proxy", is_flag=True, help="Another process ends TLS before this one.")
@click.option("--max-message", type=SIZE, metavar="SIZE", help="Largest request.  [default: 64MiB]")
@click.option(
    "--max-connections", type=click.IntRange(1), metavar="N", help="Maximum number of connections.  [default: 256]"
)
@click.option(
    "--max-hubs",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum number of task hubs; a client creates one by its name.  [default: 100]",
)
@click.option(
    "--retention",
    type=DURATION,
    metavar="TIME",
    help="Time that finished instances are kept.  [default: without limit]",
)
@click.option("--strict", is_flag=True, help="Apply the limits of the Durable Task Scheduler.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File for the process id and the address, written when the engine answers.",
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
                f"options before {context.invoked_subcommand!r} are for serving; write them after the command", context
            )
        return 0
    if path is None:
        raise click.UsageError("set the directory of the task hubs with --path", context)
    if guard["tls_certificate"] is None and (guard["tls_key"] or guard["tls_client_ca"]):
        raise click.UsageError("--tls-key and --tls-client-ca need --tls-certificate", context)
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
