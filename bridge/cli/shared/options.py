"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

import click

from bridge.cli.shared.parameters import HEADER, LOG_LEVEL

if TYPE_CHECKING:
    from bridge.core.origin import MessageOrigin
    from bridge.ops.logging import Level

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
"""Path. The code that uses it reports a missing file, with the remedy."""


CODE_HOSTS = ": `text` is `table`, `sarif` is for code hosts, `github` makes annotations"
"""End of the help of `output_option` for commands whose findings code hosts show."""


def config_options(function: F) -> F:
    """Add the options `config` and `overlay`, tuples of paths."""
    overlay = click.option(
        "--overlay", type=PATH, multiple=True, metavar="FILE", help="Overlay for the configuration; repeatable."
    )
    config = click.option(
        "-c",
        "--config",
        type=PATH,
        multiple=True,
        metavar="FILE|DIR",
        help="Configuration; repeatable.  [default: bridge.yaml, else config/bridge.yaml]",
    )
    return config(overlay(function))


def message_options(function: F) -> F:
    """Add the options that describe a message: `type_`, `key`, `headers` and `id_`."""
    decorators = (
        click.option("--type", "type_", metavar="T", help="Wrap the data as a CloudEvent of this type."),
        click.option("--key", metavar="K", help="Key of the message; messages of one key are processed in order."),
        click.option(
            "--header", "headers", type=HEADER, multiple=True, metavar="K=V", help="Header of the message; repeatable."
        ),
        click.option("--id", "id_", metavar="ID", help="Id of the CloudEvent.  [default: random]"),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def origin_options(function: F) -> F:
    """Add the options `message_id` and `bare`, for `origin`."""
    bare = click.option("--bare", is_flag=True, help="Send the data without the bridge's envelope.")
    message_id = click.option(
        "--message-id", metavar="ID", help="Message id, by which a repetition is recognized.  [default: random]"
    )
    return message_id(bare(function))


def origin(message_id: str | None, bare: bool, what: str) -> MessageOrigin | None:
    """Message that a person's command counts as; None for none. what: the command, in place of a rule."""
    from bridge.core.origin import MessageOrigin

    if message_id == "" or (bare and message_id is not None):
        wrong = "--message-id must not be empty" if message_id == "" else "use either --message-id or --bare"
        raise click.UsageError(wrong, click.get_current_context())
    return None if bare else MessageOrigin(message_id or str(uuid4()), what)


def as_message(message: MessageOrigin | None) -> dict[str, Any]:
    """Parameters of an operation for a message origin."""
    return {"bare": True} if message is None else {"message_id": message.message_id}


def log_level_option(function: F) -> F:
    """Add the option `log_level`, for `log_levels`."""
    return click.option(
        "--log-level",
        type=LOG_LEVEL,
        multiple=True,
        metavar="[LOGGER=]LEVEL",
        help="Level of the log (debug, info, warning, error), or of one logger; repeatable.  [default: `ops.log`]",
    )(function)


def log_levels(given: tuple[tuple[str, str], ...], own: Collection[str] = ()) -> dict[str, Level]:
    """Levels of `log_level_option` by logger; the level of the whole log has the name `""`.

    own: packages of the configuration's own code. Raises: UsageError when a library is to write debug records.
    """
    from bridge.ops.logging import is_library

    levels: Any = dict(given)
    for logger, level in levels.items():
        if logger and level == "debug" and is_library(logger, {"bridge", *own}):
            raise click.UsageError(
                f"{logger} is a library, and the lowest level of libraries is info: their debug records contain "
                "passwords and payloads",
                click.get_current_context(),
            )
    found: dict[str, Level] = levels
    return found


def reason_option(function: F) -> F:
    """Add the option `reason`."""
    return click.option("--reason", metavar="TEXT", help="Reason, kept in the audit (`bridge audit`).")(function)


def output_option(
    detail: str = "", more: Sequence[str] = (), *, ids: bool = False, older: bool = True
) -> Callable[[F], F]:
    """Add the option `output`, `table` or `json`, and its older form `--json`.

    detail: end of its help.
    more: further forms; the option is then also named `--format`.
    ids: it may also be `ids`.
    older: the command had `--json` before.
    """
    choice = click.Choice(["table", "json", *(["ids"] if ids else ()), *more])
    names = ("-o", "--output", *(("--format", "output") if more else ()))

    def add(function: F) -> F:
        form = f"Form of the output{detail}."
        option = click.option(*names, type=choice, default="table", show_default=True, help=form)
        if not older:
            return option(function)

        @wraps(function)
        def chosen(*args: Any, output: str, is_json: bool, **others: Any) -> Any:
            return function(*args, output="json" if is_json else output, **others)

        return cast(F, option(click.option("--json", "is_json", is_flag=True, help="Older form of -o json.")(chosen)))

    return add


def json_option(function: F) -> F:
    """Add the option `as_json`: `-o json`, and its older form `--json`."""

    @wraps(function)
    def chosen(*args: Any, output: str, **others: Any) -> Any:
        return function(*args, as_json=output == "json", **others)

    return output_option()(cast(F, chosen))
