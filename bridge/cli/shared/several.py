"""Commands on several instances: their ids, and one result or error each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.connection import operate_each
from bridge.cli.shared.failure import report
from bridge.cli.shared.output import say
from bridge.core.errors import BridgeError

F = TypeVar("F", bound=Callable[..., Any])


def ids_argument(function: F) -> F:
    """Add the argument `ids`, and the option `separated`, for `read_ids`."""
    null = click.option("-0", "--null", "separated", is_flag=True, help="Ids on standard input end with null bytes.")
    return click.argument("ids", nargs=-1, required=True, metavar="ID...")(null(function))


def optional_ids_argument(function: F) -> F:
    """Add the argument `ids`, which may be missing, and the option `separated`, for `read_ids`."""
    null = click.option("-0", "--null", "separated", is_flag=True, help="Ids on standard input end with null bytes.")
    return click.argument("ids", nargs=-1, metavar="[ID]...")(null(function))


def read_ids(ids: Sequence[str], separated: bool) -> list[str]:
    """Ids without repetitions; `-` stands for the lines of standard input, or its texts between null bytes."""
    found: dict[str, None] = {}
    for each in ids:
        if each != "-":
            found[each] = None
            continue
        data = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        found |= dict.fromkeys(data.split("\0") if separated else map(str.strip, data.splitlines()))
    found.pop("", None)
    if not found:
        raise click.UsageError("standard input has no id", click.get_current_context())
    return list(found)


LONGEST_PART = 64 * 1024
"""Characters of the ids of one request, as a query spells them. A body may have ten times as many."""


def in_requests(ids: Sequence[str], most: int, longest: int = LONGEST_PART) -> list[tuple[str, ...]]:
    """Ids in parts that fit into one request each; one empty part without ids.

    most: ids of a part. longest: characters of a part, quoted.
    """
    parts: list[list[str]] = [[]]
    size = 0
    for each in ids:
        length = len(quote(each, safe="")) + 3
        if parts[-1] and (len(parts[-1]) == most or size + length > longest):
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += length
    return [tuple(part) for part in parts]


def is_one(ids: Sequence[str]) -> bool:
    """True when the command line names one instance: its output then is not a list."""
    return len(ids) == 1 and ids[0] != "-"


def on_each(
    engine: dict[str, Any],
    action: str,
    ids: Sequence[str],
    separated: bool,
    given: dict[str, Any],
    text: Callable[[str, Any], str],
) -> int:
    """Run an operation on each instance, and print each result or error; return the exit code.

    text: line for the id and result of one instance.
    Raises: BridgeError for the only instance.
    """
    names = read_ids(ids, separated)
    results = operate_each(engine, [(action, {"instance_id": name, **given}) for name in names])
    for name, result in zip(names, results, strict=False):
        if not isinstance(result, BridgeError):
            say(text(name, result))
    return print_errors(names, results)


def print_errors(names: Sequence[str], results: Sequence[Any]) -> int:
    """Print each error; return the exit code. Raises: the error of the only instance."""
    if len(names) == 1 and isinstance(results[0], BridgeError):
        raise results[0]
    code = exit_codes.OK
    for name, result in zip(names, results, strict=False):
        if isinstance(result, BridgeError):
            code = max(code, exit_codes.of(result))
            if name in str(result):
                report(result)
            else:
                say(f"error: {name}: {' '.join(str(result).split())}", err=True)
    if left := len(names) - len(results):
        say(f"error: {left:,} more not tried", err=True)
    return code
