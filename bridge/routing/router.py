"""Router from messages to commands. Pure: the same message gives the same decision."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.sources import LimitsConfig
from bridge.core.commands import Decision, RoutedCommand
from bridge.core.errors import ConfigError, ConfigPath, Locate, MessageError, NoRoute
from bridge.core.message import Envelope
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.scope import RouteScope
from bridge.routing.cel.template import Template, compile_template
from bridge.routing.index import RuleIndex, reader
from bridge.routing.map_function import LoadFunction, load_map
from bridge.routing.per import SHARED, value_of
from bridge.routing.rule import Rule, compile_rule
from bridge.routing.saga import SagaCompiler
from bridge.routing.volume import check_volume

Validate = Callable[[Any], None]
"""Function that checks a payload against the schema of a route. Raises: SchemaError."""

_IGNORED = Decision((), ())
_AT_ONCE = 100
"""Maximum number of rules that are tried without a pause. Cheap evaluations are not counted, but add up."""

_GROWTH = 4
"""Factor by which a payload may be longer as JSON than its body (`1E9` is `1000000000.0`)."""


class Router:
    """Compiled rules of one source."""

    def __init__(
        self,
        source: str,
        rules: Sequence[Rule],
        variables: Mapping[str, Any],
        ignores: bool,
        ordering: str | Template,
        limits: LimitsConfig,
        compiled: Sequence[tuple[ConfigPath, Expression]] = (),
        per: Template | None = None,
        places: Mapping[str, ConfigPath] | None = None,
    ) -> None:
        """Create a router.

        compiled: the expressions of the rules, each with its place in the configuration.
        per: template of the source's `limits.per`.
        places: places in the configuration by the names that errors give them (`MessageError.expression`).
        """
        self.source = source
        self.rules = tuple(rules)
        self.compiled = compiled
        self.places = places or {}
        self._variables = variables
        self._ignores = ignores
        self._ordering = ordering
        self._per = per
        self._allowed = limits.expression_nanoseconds
        self._max_bytes = limits.max_command_bytes
        self._unmeasured = limits.max_command_bytes // (_GROWTH * limits.max_payload)
        self.portioned = len(rules) > _AT_ONCE or any(rule.for_each is not None for rule in rules)
        """True if a message may meet many rules or lead to many commands. Routing may then take long."""
        self._index = RuleIndex([rule.config.match for rule in rules])

    @classmethod
    def compile(
        cls,
        source_name: str,
        config: BridgeConfig,
        locate: Locate,
        functions: LoadFunction | None = None,
        validators: Mapping[str, Validate] | None = None,
    ) -> Router:
        """Compile all routes from one source.

        functions: None leaves functions of `map` out, and a route with one fails when run.
        validators: by route name, for routes with a schema. Other routes are not validated.
        Raises: ConfigError with every problem of the source's routes.
        """
        compiler = Compiler(locate, config.vars)
        started = {route.schedule.saga for route in config.routes if source_name in route.from_ and route.schedule}
        sagas = {name: SagaCompiler(name, config, locate).compile(compiler) for name in config.sagas if name in started}
        rules = []
        maximum = config.sources[source_name].limits.max_commands
        for position, route in enumerate(config.routes):
            if source_name not in route.from_:
                continue
            for key in route.match:
                try:
                    reader(key)
                except ValueError as error:
                    compiler.report(("routes", position, "match", key), str(error), "C005")
            function = load_map(functions, route.map, ("routes", position, "map"), compiler)
            validate = (validators or {}).get(route.name)
            rules.append(compile_rule(route, position, compiler, function, validate, sagas, maximum))
        source = config.sources[source_name]
        ordering: str | Template | None = source.ordering
        if source.ordering not in ("key", "partition", "none"):
            path: ConfigPath = ("sources", source_name, "ordering")
            if "{{" in source.ordering:
                ordering = compile_template(source.ordering, path, f"source {source_name}, ordering", compiler)
            else:
                what = f"{source.ordering!r} is neither key, partition, none nor a template with {{{{ }}}}"
                compiler.report(path, what, "C005")
        per = None
        if source.limits.per is not None:
            path = ("sources", source_name, "limits", "per", "value")
            per = compile_template(source.limits.per.value, path, f"source {source_name}, limits.per", compiler)
        if compiler.problems:
            raise ConfigError(compiler.problems)
        assert ordering is not None  # a template that does not compile is a problem
        compiled = [each for each in compiler.compiled if each[0][0] != "sagas"]  # no message there
        ignores = source.no_match == "ignore"
        return cls(source_name, rules, config.vars, ignores, ordering, source.limits, compiled, per, compiler.places)

    def route(self, envelope: Envelope) -> Decision:
        """Decision of the rules about a message. The first match wins; `continue` lets later rules match too.

        Raises: NoRoute, ExpressionError, ExpressionCost, SchemaError, SchemaCost, InvalidCommand, CommandsTooLarge,
        TooManyCommands.
        """
        scope = RouteScope(envelope, envelope.data, self._variables, self._allowed)
        names: tuple[str, ...] = ()
        steps: list[RoutedCommand] = []
        rules = self.rules
        for position in self._index.candidates(envelope):
            rule = rules[position]
            try:
                if not rule.applies(scope):
                    continue
                names = (*names, rule.config.name)
                if rule.for_each is not None:
                    steps += rule.steps(scope)
                elif (step := rule.step(scope)) is not None:
                    steps.append(step)
            except MessageError as error:
                error.in_route(rule.config.name)
                raise
            if not rule.config.continue_:
                break
        if len(steps) > self._unmeasured:
            check_volume(steps, self._max_bytes)
        return self._decision(names, steps)

    def routing(self, envelope: Envelope) -> Generator[None, None, Decision]:
        """Route a message in portions. The generator yields to let other work run, and returns the decision."""
        scope = RouteScope(envelope, envelope.data, self._variables, self._allowed)
        names: tuple[str, ...] = ()
        steps: list[RoutedCommand] = []
        left = self._max_bytes
        for position in self._index.candidates(envelope):
            rule = self.rules[position]
            yield
            try:
                if not rule.applies(scope):
                    continue
                names = (*names, rule.config.name)
                for step in rule.steps(scope):
                    steps.append(step)
                    left = check_volume((step,), self._max_bytes, left)
                    yield
            except MessageError as error:
                error.in_route(rule.config.name)
                raise
            if not rule.config.continue_:
                break
        return self._decision(names, steps)

    def _decision(self, names: tuple[str, ...], steps: list[RoutedCommand]) -> Decision:
        if names:
            return Decision(names, tuple(steps))
        if self._ignores:
            return _IGNORED
        if len(self.rules) == 1:
            raise NoRoute(f"the only route from {self.source} does not match the message")
        raise NoRoute(f"none of the {len(self.rules)} routes from {self.source} matches the message")

    def ordering_key(self, envelope: Envelope) -> str | None:
        """Ordering key of a message: messages with the same key are processed one after the other. None: any order.

        With `ordering: key`, a message without a key has None. Raises: ExpressionError.
        """
        ordering = self._ordering
        if ordering == "key":
            return envelope.key
        if ordering == "partition":
            return f"{envelope.position.topic}/{envelope.position.partition}"
        if isinstance(ordering, Template):
            return ordering.render(RouteScope(envelope, envelope.data, self._variables, self._allowed))
        return None

    def value(self, envelope: Envelope) -> str:
        """Digest of the value by which the source's `limits.per` counts the message; empty without `limits.per`."""
        if self._per is None:
            return SHARED
        return value_of(self._per, RouteScope(envelope, envelope.data, self._variables, self._allowed))

    def scope(self, envelope: Envelope) -> RouteScope:
        """Variables that the expressions of the rules see for a message."""
        return RouteScope(envelope, envelope.data, self._variables, self._allowed)
