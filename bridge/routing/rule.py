"""Compiled rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge.config.model.routes import RouteConfig
from bridge.core.commands import Command, RoutedCommand, ScheduleOrchestration, StartOrRaise
from bridge.core.errors import ConfigPath, ExpressionError, TooManyCommands
from bridge.routing.cel.expression import ITEM, ROUTE, Compiler, Expression
from bridge.routing.cel.scope import RouteScope
from bridge.routing.cel.template import Template, compile_template, constant_prefix
from bridge.routing.command_compiler import Build, CommandCompiler
from bridge.routing.map_function import MapFunction, call_map
from bridge.routing.per import TAG, value_of


@dataclass(frozen=True, slots=True)
class Rule:
    """A route of one source.

    build: None for `ignore`.
    function: None while `map` is not resolved.
    per: template of `limits.per`.
    max_commands: commands that `for_each` may make of one message.
    tagged: True if instances carry their value in a tag, by which running instances are counted.
    """

    config: RouteConfig
    when: Expression | None
    for_each: Expression | None
    build: Build | None
    function: MapFunction | None
    validate: Callable[[Any], None] | None
    max_commands: int
    per: Template | None = None
    tagged: bool = False

    def applies(self, scope: RouteScope) -> bool:
        """True if `when` holds. `match` was checked before. Raises: ExpressionError unless `on_error: no_match`."""
        if self.when is None:
            return True
        try:
            return self.when.condition(scope)
        except ExpressionError:
            if self.config.on_error == "no_match":
                return False
            raise

    def step(self, scope: RouteScope) -> RoutedCommand | None:
        """Command for a matching message, of a rule without `for_each`; None for `ignore`.

        Raises: SchemaError, SchemaCost, ExpressionError, ExpressionCost, InvalidCommand.
        """
        if self.validate is not None:
            self.validate(scope.payload)
        if self.build is None:
            return None
        config = self.config
        if config.map is not None:
            scope = self._mapped(scope)
        command = self.build(scope)
        return self._step(command) if self.per is None else self._of_value(command, scope)

    def steps(self, scope: RouteScope) -> Iterator[RoutedCommand]:
        """Commands of any rule, one by one. `for_each` sees the result of `map`.

        Raises: as `step`; TooManyCommands.
        """
        build = self.build
        if self.for_each is None or build is None:
            step = self.step(scope)
            if step is not None:
                yield step
            return
        if self.validate is not None:
            self.validate(scope.payload)
        for inner in self.scopes(scope):
            command = build(inner)
            if self.per is None:
                yield self._step(command)
            else:
                yield self._of_value(command, inner)

    def scopes(self, scope: RouteScope) -> Iterator[RouteScope]:
        """Variables of each command of a matching message, with the result of `map` and the item of `for_each`.

        Raises: ExpressionError, ExpressionCost, TooManyCommands.
        """
        if self.config.map is not None:
            scope = self._mapped(scope)
        if self.for_each is None:
            yield scope
            return
        for index, item in enumerate(self._items(self.for_each, scope)):
            yield scope.for_item(item, index)

    def _of_value(self, command: Command, scope: RouteScope) -> RoutedCommand:
        """Step of a command, with the value by which limits count it."""
        assert self.per is not None
        value = value_of(self.per, scope)
        if value and self.tagged and isinstance(command, ScheduleOrchestration | StartOrRaise):
            command = replace(command, tags={**command.tags, TAG: value})
        return self._step(command, value)

    def _step(self, command: Command, value: str = "") -> RoutedCommand:
        config = self.config
        return RoutedCommand(config.name, command, config.engine, value, config.others)

    def _items(self, for_each: Expression, scope: RouteScope) -> list[Any]:
        items = for_each.value(scope)
        if not isinstance(items, list):
            raise ExpressionError(
                f"{for_each.where}: for_each needs a list, in `{for_each.source[:120]}`", for_each.where
            )
        if len(items) > self.max_commands:
            raise TooManyCommands(
                f"{for_each.where}: the list has {len(items)} items, more than the {self.max_commands} that "
                "limits.max_commands allows",
                for_each.where,
            )
        return items

    def _mapped(self, scope: RouteScope) -> RouteScope:
        """Variables with the result of `map` as payload."""
        return scope.with_payload(call_map(self.function, scope.envelope, _map_name(self.config)))


def compile_rule(
    config: RouteConfig,
    position: int,
    compiler: Compiler,
    function: MapFunction | None,
    validate: Callable[[Any], None] | None,
    sagas: Mapping[str, Any],
    max_commands: int,
) -> Rule:
    """Compile a rule. Problems are reported to the compiler.

    position: position of the route in the configuration.
    sagas: definitions of sagas by name.
    max_commands: commands that `for_each` may make of one message.
    """
    path: ConfigPath = ("routes", position)
    place = f"route {config.name}"
    when = None if config.when is None else compiler.condition(config.when, (*path, "when"), f"{place}, when")
    for_each = (
        None if config.for_each is None else compiler.value(config.for_each, (*path, "for_each"), f"{place}, for_each")
    )
    names = ROUTE if config.for_each is None else ITEM
    build = CommandCompiler(compiler, config, path, names, sagas).compile()
    if config.map is not None:
        compiler.name(_map_name(config), (*path, "map"))
    per, tagged = None, False
    if config.limits is not None:
        if config.limits.running is not None:
            _check_cap(config, (*path, "limits", "running"), compiler)
        if config.limits.per is not None:
            place_of = (*path, "limits", "per")
            per = compile_template(
                config.limits.per.value, (*place_of, "value"), f"{place}, limits.per", compiler, names
            )
            tagged = config.limits.per.running is not None
            if tagged:
                _check_cap(config, (*place_of, "running"), compiler)
    return Rule(config, when, for_each, build, function, validate, max_commands, per, tagged)


def _map_name(config: RouteConfig) -> str:
    return f"route {config.name}, map {config.map}"


def _check_cap(config: RouteConfig, path: ConfigPath, compiler: Compiler) -> None:
    """Check that the command starts instances with a constant id prefix, by which running instances are counted."""
    command = config.schedule or config.start_or_raise
    if command is None:
        what = f"`{config.command}` starts nothing that could be counted; only a `rate` can limit it"
        compiler.report(path, what, "C006")
    elif not constant_prefix(command.instance_id):
        compiler.report(
            path,
            "running orchestrations are counted by the constant prefix of the instance id, and it has none; "
            "begin it with a word of its own, like `order-{{ ... }}`",
            "C006",
        )
