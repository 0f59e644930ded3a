"""Commands with examples in their help, and groups that import a command when it is used."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import cleandoc
from typing import Any, Literal

import click

from bridge.cli.shared import exit_codes, failure
from bridge.cli.shared.completion import complete_names

Effect = Literal["reads", "changes", "serves"]
"""Effect of a command.

`changes`: a lasting change, which leaves an audit line. `serves`: runs a server. `reads`: neither.
"""


class BridgeCommand(click.Command):
    """A command.

    examples: lines for the help, kept unchanged.
    exits: meanings of exit codes specific to the command.
    """

    def __init__(
        self,
        *arguments: Any,
        effect: Effect,
        examples: str = "",
        exits: Mapping[int, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        complete_names(self)
        self.effect = effect
        self.examples = cleandoc(examples)
        self.exits = exit_codes.MEANINGS | dict(exits or {})

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_block(formatter, "Examples", self.examples.splitlines())
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in sorted(self.exits.items())])


class BridgeGroup(click.Group):
    """A group of commands, each a module below `package` with the attribute `command`.

    members: one line of help per command, which allows listing the commands without importing them.
    modules: modules of commands that are not named as their command, below `package`.
    replaced: commands that are gone, and the commands to use instead.
    A command in the file of its group is added with `add_command`.
    """

    command_class = BridgeCommand

    def __init__(
        self,
        *arguments: Any,
        package: str = "",
        members: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        replaced: Mapping[str, str] | None = None,
        examples: str = "",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._package = package
        self._members = members
        self._modules = modules or {}
        self._replaced = replaced or {}
        self._examples = cleandoc(examples)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._members:
            return None
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        module = import_module(f"{self._package}.{self._modules.get(cmd_name, cmd_name)}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in self._replaced:
            raise click.UsageError(f"the command {name!r} is gone: use {self._replaced[name]}", ctx)
        if name not in self._members and not name.startswith("-") and not ctx.resilient_parsing:
            meant = _meant(name, self._members)
            raise click.UsageError(f"there is no command {name!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._members.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_block(formatter, "Examples", self._examples.splitlines())


class Root(BridgeGroup):
    """Command line as a whole. Errors become one line and an exit code."""

    def main(  # type: ignore[override]  # click's overloads tell standalone from embedded use; here both return
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> int:
        code = failure.guarded(lambda: super(Root, self).main(args, prog_name, standalone_mode=False, **extra))
        if standalone_mode:
            raise SystemExit(code)
        return code

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # An argument that is not UTF-8 arrives with lone surrogates, which no message, id or request to an engine
        # can hold
        for argument in args:
            if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
                raise click.UsageError(f"the argument {argument!r:.80} is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        # Inside click's own main, which treats a broken pipe differently
        return failure.written(lambda: super(Root, self).invoke(ctx))


_SYNONYMS = {
    "start": "serve", "run": "serve", "up": "serve", "daemon": "serve", "validate": "check", "verify": "check",
    "explain": "route", "produce": "publish", "send": "publish", "consume": "topic", "new": "init", "create": "init",
    "list": "status", "ps": "status",
}  # fmt: skip
"""Commands of other tools, with those of this one."""


def _meant(name: str, members: Mapping[str, str]) -> str:
    """End of the error about an unknown command: the one that was probably meant, or all."""
    synonyms = {word: own for word, own in _SYNONYMS.items() if own in members}
    near = difflib.get_close_matches(name, [*synonyms, *members], n=1, cutoff=0.7)
    near = near or difflib.get_close_matches(name, members, n=1)
    if not near:
        return f" (known: {', '.join(members)})"
    return f"; did you mean {synonyms.get(near[0], near[0])!r}?"


def command(
    name: str, *, effect: Effect, examples: str, exits: Mapping[int, str] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], BridgeCommand]:
    """Decorator that makes a BridgeCommand of a function."""
    return click.command(name, cls=BridgeCommand, effect=effect, examples=examples, exits=exits, **options)


def _write_block(formatter: click.HelpFormatter, title: str, lines: Sequence[str]) -> None:
    if lines:
        formatter.write(f"\n{title}:\n")
        for line in lines:
            formatter.write(f"  {line}\n" if line else "\n")
