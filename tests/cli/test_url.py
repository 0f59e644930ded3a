"""Each command that asks a daemon has `--url`; the table of the API's document names the others, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from bridge.cli import root
from tests.docs.document import table


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_a_command_has_the_option_or_a_reason() -> None:
    with_url = {name for name, command in commands() if any(each.name == "url" for each in command.params)}
    rows = table("docs/api.md", "Command without `--url`")
    without = {name for row in rows for name in re.findall("`([a-z ]+)`", row[0]) or [row[0]]}
    assert without == {name for name, _ in commands()} - with_url
    assert all(row[1] for row in rows)
