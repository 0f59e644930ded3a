"""`bridge engine`: server of the embedded engine, and care of its file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import local_engine_options
from bridge.cli.shared.options import PATH, json_option, log_level_option, log_levels, reason_option
from bridge.cli.shared.output import clean, print_json
from bridge.cli.shared.parameters import ADDRESS, DURATION, SIZE
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.encryption import Keyring


@click.group(
    "engine",
    cls=BridgeGroup,
    members={
        "backup": "Back up the engine's file, also while a daemon runs.",
        "check": "Check the engine's file for damage.",
        "compact": "Return the space of removed data to the disk.",
        "drain": "Report what is left on an engine from which instances move.",
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
        bridge engine drain old --wait
    """,
    package="bridge.cli",
    modules={"drain": "engine_drain"},
    invoke_without_command=True,
    no_args_is_help=True,
)
@click.option(
    "--listen",
    type=ADDRESS,
    metavar="HOST:PORT",
    help="Address to listen on; port 0 selects a free port.  [default: 127.0.0.1:8080]",
)
@click.option("--path", type=PATH, metavar="DIR", help="Directory of the task hubs, one file each; created if missing.")
@click.option(
    "--token-file", type=PATH, metavar="FILE", help="File with the bearer token for clients; required beyond loopback."
)
@click.option(
    "--tls-certificate",
    type=PATH,
    metavar="FILE",
    help="PEM file of the certificate, its chain and its key; reloaded when it changes. TLS is "
    "required beyond loopback.",
)
@click.option(
    "--tls-key", type=PATH, metavar="FILE", help="PEM file of the key, if it is not in the certificate's file."
)
@click.option(
    "--tls-client-ca",
    type=PATH,
    metavar="FILE",
    help="PEM file of authorities; each client then needs a certificate of one of them.",
)
@click.option("--behind-tls-proxy", is_flag=True, help="Another process terminates TLS before this one.")
@click.option("--max-message", type=SIZE, metavar="SIZE", help="Largest request.  [default: 64MiB]")
@click.option(
    "--max-payload",
    type=SIZE,
    metavar="SIZE",
    help="Largest payload that clients with `payloads: {store: {type: engine}}` store here.  [default: 64MiB]",
)
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
    type=PATH,
    metavar="FILE",
    help="File for the process id and the address, written when the engine answers.",
)
@log_level_option
@click.pass_context
def command(
    context: click.Context,
    /,
    listen: str | None,
    path: Path | None,
    retention: float | None,
    strict: bool,
    max_hubs: int | None,
    max_payload: int | None,
    ready_file: Path | None,
    log_level: tuple[tuple[str, str], ...],
    **guard: Any,
) -> int:
    """Serve the embedded engine alone, or maintain its file.

    Without a command, it serves task hubs on a port, in place of the scheduler's emulator. Clients and workers of the
    Durable Task SDKs connect to it, and each task hub has a file of its own. Acknowledged data survives any crash.
    Ctrl-C or SIGTERM stops it with exit code 0; it exits with 3 if it cannot start.

    The commands apply to the file of a configured engine, or to any file by its path.
    """
    if context.invoked_subcommand is not None:
        given = (listen, path, retention, ready_file, max_hubs, max_payload, *log_level, *guard.values())
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
        max_payload=max_payload,
        ready_file=ready_file,
        log_levels=log_levels(log_level),
    )


F = TypeVar("F", bound=Callable[..., Any])


def file_options(function: F) -> F:
    """Add the option `path` and those of `local_engine_options`."""
    path = click.option(
        "--path", type=PATH, metavar="FILE", help="File of any engine, instead of the configured engine."
    )
    return path(local_engine_options(function))


def to_change(path: Path | None, options: dict[str, Any], action: str, reason: str | None) -> Path:
    """File that the options name, for a command that changes it. An engine without a file leaves an audit line."""
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.engine_file import configured

    if path is None:
        loaded = load_config(options["config"], options["overlay"])
        with refused(loaded, action, options["engine"] or "default", reason):
            return configured(loaded, options["engine"])
    return _given(path, options)


def _given(path: Path, options: dict[str, Any]) -> Path:
    from bridge.app.operations.engine_file import named_file

    if any(options.values()):
        raise click.UsageError("use either --path, or an engine and a configuration", click.get_current_context())
    return named_file(path)


def named_with_keys(
    path: Path | None, options: dict[str, Any], action: str | None = None, reason: str | None = None
) -> tuple[Path, Keyring | None]:
    """File, and the keys of its payloads. With a path, the other options name the engine that has the keys.

    action, reason: for a command that changes the file. An engine without a file then leaves an audit line.
    Raises: ConfigError, LookupError, EngineMisconfigured.
    """
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.engine_file import configured, keyring, named_file

    if path is not None and not any(options.values()):
        return named_file(path), None
    loaded = load_config(options["config"], options["overlay"])
    if path is not None:
        file = named_file(path)
    elif action is None:
        file = configured(loaded, options["engine"])
    else:
        with refused(loaded, action, options["engine"] or "default", reason):
            file = configured(loaded, options["engine"])
    return file, keyring(loaded, options["engine"])


@contextmanager
def copying(label: str, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Context of a function that displays the progress of a copy; None if standard error is not a terminal."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show


@make(
    "check",
    effect="reads",
    examples="""
        bridge engine check
        bridge engine check --engine eu
        bridge engine check --path hubs/default.db --json
    """,
    exits={
        0: "the file is not damaged",
        1: "the file is damaged",
        3: "the file does not exist or cannot be read, or a key is missing",
    },
)
@file_options
@json_option
def check(path: Path | None, as_json: bool, **options: Any) -> int:
    """Read the whole file of an embedded engine and report any damage. The engine may run meanwhile.

    Encrypted payloads need their keys: with --path, the options -c and --engine name the engine that has them.
    """
    file, keys = named_with_keys(path, options)
    from bridge.app.operations.engine_file import check

    problems = check(file, keys)
    if as_json:
        print_json({"file": str(file), "problems": problems})
    else:
        for problem in problems:
            click.echo(f"{file}: {clean(problem)}")
        if not problems:
            click.echo(f"{file}: ok")
    return exit_codes.FAILED if problems else exit_codes.OK


@make(
    "compact",
    effect="changes",
    examples="""
        bridge engine compact
        bridge engine compact --path hubs/default.db
    """,
    exits={0: "done", 3: "the engine runs, the file does not exist, or there is no space for a copy"},
)
@reason_option
@file_options
@json_option
def compact(path: Path | None, as_json: bool, reason: str | None, **options: Any) -> None:
    """Shrink the file of an embedded engine to the size of its contents.

    Removed instances leave free space in the file, which new ones fill; this command returns it to the disk. The
    engine must be stopped, and the disk must have room for a copy of the file.
    """
    file = to_change(path, options, "engine.compact", reason)
    from bridge.app.operations.engine_file import audited, compact

    with audited("engine.compact", file, {}, reason):
        before, after = compact(file)
    if as_json:
        print_json({"file": str(file), "bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{file}: {before:,} bytes before, {after:,} after")


@make(
    "export",
    effect="reads",
    examples="""
        bridge engine export | jq .state.instanceId
        bridge engine export --output instances.jsonl
        bridge engine export --path hubs/default.db --output default.jsonl --json
    """,
    exits={
        0: "every instance was written",
        1: "the output cannot be written",
        3: "the file cannot be read, or a key is missing",
    },
)
@click.option("--output", type=PATH, metavar="FILE", help="File for the instances; a summary is printed instead.")
@file_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(path: Path | None, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write every instance of an embedded engine with its history, one JSON object per line.

    An object has the keys state, finished and history, with the field names of the Durable Task protocol. Payloads
    are written in plain text, even those that the file holds encrypted. With --path, the options -c and --engine name
    the engine that has the keys. The engine may run meanwhile.
    """
    file, keys = named_with_keys(path, options)
    from bridge.app.operations.engine_file import export, replacing

    if output is None:
        export(file, sys.stdout, keys)
        return
    if output.exists() and file.exists() and output.samefile(file):
        raise click.UsageError("--output is the engine's own file", click.get_current_context())
    try:
        with replacing(output) as out:
            count = export(file, out, keys)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or "") from None
    if as_json:
        print_json({"file": str(file), "output": str(output), "instances": count})
    else:
        click.echo(f"{plural(count, 'instance')} exported to {output}")


@make(
    "backup",
    effect="changes",
    examples="""
        bridge engine backup /backups/engine.db
        bridge engine backup --force --json /backups/engine.db
        bridge engine backup --path hubs/default.db /backups/default.db
    """,
    exits={
        0: "the backup is complete and on disk",
        1: "FILE exists, or cannot be written",
        3: "the engine's file is missing, or cannot be read",
    },
)
@click.argument("target", type=PATH, metavar="FILE")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@reason_option
@file_options
@json_option
def backup(path: Path | None, target: Path, force: bool, as_json: bool, reason: str | None, **options: Any) -> None:
    """Copy the file of an embedded engine to FILE, as of one moment.

    The engine may run meanwhile. FILE appears when it is complete, and only its owner can read it. Encrypted payloads
    stay encrypted. FILE cannot be in the engine's directory under a name that ends with .db.
    """
    file = to_change(path, options, "engine.backup", reason)
    from bridge.app.operations.engine_file import TargetRefused, audited, backup

    try:
        with audited("engine.backup", file, {"to": str(target)}, reason), copying("backup", as_json) as progress:
            size = backup(file, target, force=force, progress=progress)
    except TargetRefused as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json({"file": str(file), "backup": str(target), "bytes": size})
    else:
        click.echo(f"{file}: {size:,} bytes backed up to {target}")


@make(
    "restore",
    effect="changes",
    examples="""
        bridge engine restore /backups/engine.db
        bridge engine restore --path hubs/default.db /backups/default.db
    """,
    exits={
        0: "the engine's file has been replaced with the backup",
        1: "the backup is damaged; nothing was changed",
        3: "the engine runs, the backup does not exist or cannot be restored, or a key is missing",
    },
)
@click.argument("source", type=PATH, metavar="FILE")
@reason_option
@file_options
@json_option
def restore(path: Path | None, source: Path, as_json: bool, reason: str | None, **options: Any) -> int:
    """Replace an embedded engine's file with the backup FILE.

    The engine must be stopped. The backup is checked first, as by `bridge engine check`, and stays unchanged. The
    previous file is kept next to the new one, under a name with the time. Set the positions of the sources back to
    the time of the backup: it lacks the messages that were settled since.

    A backup with encrypted payloads needs their keys in the configuration. With --path alone, these payloads are not
    checked.
    """
    file, keys = named_with_keys(path, options, "engine.restore", reason)
    decrypts = path is None or any(options.values())
    from bridge.app.operations.engine_file import audited, restore

    with (
        audited("engine.restore", file, {"from": str(source)}, reason) as change,
        copying("restore", as_json) as progress,
    ):
        restored = restore(source, file, progress, keys, decrypts=decrypts)
        if restored.problems:
            change.fail("damaged")
    kept = None if restored.kept is None else str(restored.kept)
    if as_json:
        print_json({"file": str(file), "backup": str(source), "kept": kept, "problems": restored.problems})
    elif restored.problems:
        for problem in restored.problems:
            click.echo(f"{source}: {clean(problem)}")
    else:
        click.echo(f"{file}: restored from {source}" + (f"; the previous file is {kept}" if kept else ""))
    return exit_codes.FAILED if restored.problems else exit_codes.OK


@make(
    "reencrypt",
    effect="changes",
    examples="""
        bridge engine reencrypt --dry-run
        bridge engine reencrypt --reason 'key 2026-05 is withdrawn'
    """,
    exits={
        0: "every payload is encrypted with the current key; with --dry-run: the payloads were counted",
        1: "some payloads cannot be decrypted and are unchanged",
        3: "the engine runs, the file does not exist, there is no space for a copy, or a key is missing",
    },
)
@click.option("--dry-run", is_flag=True, help="Only count payloads by key; also while the engine runs.")
@reason_option
@file_options
@json_option
def reencrypt(path: Path | None, dry_run: bool, as_json: bool, reason: str | None, **options: Any) -> int:
    """Rewrite the payloads in an embedded engine's file that are not encrypted with the first key of its `encryption`.

    With `active: false` they are rewritten in plain text. Afterwards the whole file is rewritten, and nothing of the
    former payloads remains in it. The engine must be stopped, and the disk must have room for a copy of the file. An
    interrupted run continues where it stopped.

    The output shows how many payloads still need each key. A key that no payload needs can be withdrawn.
    """
    file, keys = named_with_keys(path, options, None if dry_run else "engine.reencrypt", reason)
    from bridge.app.operations.engine_file import PLAIN, audited, count_values, reencrypt
    from bridge.core.errors import EngineMisconfigured

    if dry_run:
        _show(file, count_values(file, keys), PLAIN, as_json)
        return exit_codes.OK
    key = keys.current.id if keys is not None and keys.active else PLAIN
    with audited("engine.reencrypt", file, {"key": key} if key else {}, reason) as change:
        if keys is None:
            raise EngineMisconfigured(
                "the engine has no `encryption`; to end encryption, keep its keys with `active: false` for this command"
            )
        with copying("reencrypt", as_json) as progress:
            result = reencrypt(file, keys, progress)
        if result.unreadable:
            change.fail("damaged")
    if not as_json:
        for problem in result.unreadable:
            click.echo(f"{file}: {clean(problem)}")
        click.echo(f"{file}: {plural(result.rewritten, 'payload')} rewritten")
    _show(file, result.values, PLAIN, as_json, {"rewritten": result.rewritten, "unreadable": list(result.unreadable)})
    return exit_codes.FAILED if result.unreadable else exit_codes.OK


def _show(
    file: Path, values: Mapping[str, int], plain: str, as_json: bool, more: Mapping[str, object] | None = None
) -> None:
    if as_json:
        encrypted = {id_: number for id_, number in values.items() if id_ != plain}
        print_json({"file": str(file), "keys": encrypted, "plain": values.get(plain, 0), **(more or {})})
        return
    for id_, number in values.items():
        where = "unencrypted" if id_ == plain else f"under key {clean(id_)}"
        click.echo(f"{file}: {plural(number, 'payload')} {where}")


for each in (check, compact, export, backup, restore, reencrypt):
    command.add_command(each)
