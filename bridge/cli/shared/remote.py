"""Options for a daemon elsewhere: its address, a token, and the authority of its certificate."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from bridge.cli.shared.options import PATH

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress

F = TypeVar("F", bound=Callable[..., Any])

TOKEN = "BRIDGE_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token."""


def remote_options(function: F) -> F:
    """Add the option `remote`: the address of a daemon, or None for the configuration."""
    url = click.option(
        "--url",
        envvar="BRIDGE_URL",
        show_envvar=True,
        metavar="URL",
        help="Address of the ops port of a daemon, instead of a configuration.",
    )

    @wraps(function)
    def chosen(*args: Any, url: str | None, token_file: Path | None, ca: Path | None, **others: Any) -> Any:
        urls = urls_of(() if url is None else (url,), others["config"])
        return function(*args, remote=addresses(urls, token_file, ca)[0] if urls else None, **others)

    return url(access_options(cast(F, chosen)))


def remotes_options(function: F) -> F:
    """Add the option `remotes`: the addresses of daemons; none for the configuration."""
    url = click.option(
        "--url",
        "url",
        envvar="BRIDGE_URL",
        show_envvar=True,
        multiple=True,
        metavar="URL",
        help="Address of the ops port of a daemon, instead of the daemons on this machine; repeatable.",
    )

    @wraps(function)
    def chosen(*args: Any, url: tuple[str, ...], token_file: Path | None, ca: Path | None, **others: Any) -> Any:
        return function(*args, remotes=addresses(urls_of(url, others["config"]), token_file, ca), **others)

    return url(access_options(cast(F, chosen)))


def access_options(function: F) -> F:
    """Add the options `token_file` and `ca`."""
    for option in (
        click.option(
            "--ca",
            type=PATH,
            envvar="BRIDGE_CA",
            show_envvar=True,
            metavar="FILE",
            help="Certificates of the authorities to trust for --url.  [default: those of the system]",
        ),
        click.option(
            "--token-file",
            type=PATH,
            envvar="BRIDGE_TOKEN_FILE",
            show_envvar=True,
            metavar="FILE",
            help=f"File with the token for --url.  [default: the variable {TOKEN}]",
        ),
    ):
        function = option(function)
    return function


def urls_of(urls: tuple[str, ...], config: tuple[Path, ...]) -> tuple[str, ...]:
    """Addresses to ask; none where a configuration is named and the address comes from the environment.

    Raises: UsageError when the command line names both.
    """
    context = click.get_current_context()
    if urls and config:
        if context.get_parameter_source("url") == ParameterSource.COMMANDLINE:
            raise click.UsageError("use either --url or --config", context)
        return ()
    return urls


def addresses(urls: tuple[str, ...], token_file: Path | None, ca: Path | None) -> list[DaemonAddress]:
    """Addresses with their token. Raises: UsageError, InvalidCommand."""
    if not urls:
        return []
    from bridge.app.remote import address

    try:
        token = os.environ.get(TOKEN) if token_file is None else token_file.read_text().strip()
        return [address(url, token or None, ca) for url in urls]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"{token_file} cannot be read: {why}", click.get_current_context()) from None
