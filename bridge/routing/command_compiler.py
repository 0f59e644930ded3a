"""Compiler of the commands of routes: functions that build a command from a message's variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from bridge.config.model.routes import (
    CancelConfig,
    IgnoreConfig,
    MissingConfig,
    RaiseEventConfig,
    ReplyConfig,
    ResumeConfig,
    RouteConfig,
    ScheduleConfig,
    SignalEntityConfig,
    StartOrRaiseConfig,
    SuspendConfig,
    TerminateConfig,
    WaitMissing,
)
from bridge.core.answers import CORRELATION_ID, parse, reply_event
from bridge.core.commands import (
    Cancel,
    Command,
    Missing,
    OnMissing,
    RaiseEvent,
    Resume,
    ScheduleOrchestration,
    SignalEntity,
    StartFirst,
    StartOrRaise,
    Suspend,
    Terminate,
    WaitFor,
)
from bridge.core.errors import ConfigPath, InvalidCommand, UnexpectedReply
from bridge.core.message import Envelope
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import ExpressionScope, RouteScope
from bridge.routing.cel.template import Template, compile_template
from bridge.routing.identifier import (
    RESERVED_PREFIXES,
    check_entity,
    check_instance_id,
    check_name,
    check_orchestration,
    parse_delay,
    parse_time,
)
from bridge.routing.saga import SAGA_ORCHESTRATION, start_input


def asked_by(envelope: Envelope) -> tuple[str, str]:
    """Event that carries an answer, and the id of the instance that sent the request.

    The event name contains the whole correlation id. Its signature can thus be checked before the event is raised,
    and the event reaches only the wait that made the id.
    Raises: InvalidCommand if the message has no correlation id; UnexpectedReply if the id is not one of the bridge.
    """
    given = envelope.headers.get(CORRELATION_ID)
    if given is None:
        raise InvalidCommand(
            f"the answer has no header `{CORRELATION_ID}`; a service has to repeat that of the request"
        )
    found = parse(given)
    if found is None:
        raise UnexpectedReply(f"the header `{CORRELATION_ID}` is not one that the bridge gave to a request")
    return reply_event(given), check_instance_id(found.instance_id)


Build = Callable[[ExpressionScope], Command]
"""Function that builds a command. Raises: ExpressionError, InvalidCommand."""


@dataclass
class CommandCompiler:
    """Compiler of the command of one route.

    Problems are reported to the compiler; `build` must not be called after a problem.
    """

    compiler: Compiler
    route: RouteConfig
    path: ConfigPath
    names: frozenset[str]
    sagas: Mapping[str, Any] = field(default_factory=dict)

    def compile(self) -> Build | None:
        """Compile the function that builds the command; None for `ignore`."""
        config = self.route.command_settings
        if isinstance(config, IgnoreConfig):
            return None
        make: Callable[[Any], Build] = getattr(self, f"_{self.route.command}")
        return make(config)

    def _schedule(self, config: ScheduleConfig) -> Build:
        orchestration, to_input = self._workflow(config)
        instance_id = self._instance_id(config.instance_id)
        value = self._value(config.input, "input")
        version = self._optional_name(config.version, "version", "the version")
        tags = self._tags(config.tags)
        start_at, delay = self._time(config.start_at, "start_at"), self._delay(config.delay)
        event = self._optional_name(config.event, "event", "the event name")

        def build(scope: ExpressionScope) -> Command:
            return ScheduleOrchestration(
                orchestration,
                instance_id(scope),
                to_input(value(scope)),
                version(scope),
                tags(scope),
                start_at(scope),
                delay(scope),
                config.on_existing,
                event(scope),
                config.on_finished,
            )

        return build

    def _workflow(self, config: ScheduleConfig) -> tuple[str, Callable[[Any], Any]]:
        """Name of the orchestration to start, and the function that makes its input from the rule's value."""
        name = config.orchestration
        if name is not None:
            self._static(partial(check_orchestration, name), "orchestration")
            return name, lambda value: value
        definition = self.sagas.get(
            config.saga or ""
        )  # None for an unknown saga, which the configuration check reports
        return SAGA_ORCHESTRATION, lambda value: start_input(definition, value)

    def _raise_event(self, config: RaiseEventConfig) -> Build:
        instance_id = self._instance_id(config.instance_id)
        name = self._name(config.name, "name", "the event name")
        data = self._value(config.data, "data")
        missing = self._missing(config.on_missing)
        return lambda scope: RaiseEvent(
            instance_id(scope), name(scope), data(scope), missing(scope), config.on_finished
        )

    def _start_or_raise(self, config: StartOrRaiseConfig) -> Build:
        self._static(partial(check_orchestration, config.orchestration), "orchestration")
        instance_id = self._instance_id(config.instance_id)
        event = self._name(config.event, "event", "the event name")
        value, data = self._value(config.input, "input"), self._value(config.data, "data")
        version = self._optional_name(config.version, "version", "the version")
        tags = self._tags(config.tags)
        return lambda scope: StartOrRaise(
            config.orchestration,
            instance_id(scope),
            event(scope),
            value(scope),
            data(scope),
            version(scope),
            tags(scope),
            config.on_finished,
        )

    def _reply(self, config: ReplyConfig) -> Build:
        data = self._value(config.data, "data")

        def build(scope: ExpressionScope) -> Command:
            assert isinstance(scope, RouteScope)
            event, instance_id = asked_by(scope.envelope)
            return RaiseEvent(instance_id, event, data(scope), config.on_missing, config.on_finished)

        return build

    def _cancel(self, config: CancelConfig) -> Build:
        instance_id = self._instance_id(config.instance_id)
        event = self._name(config.event, "event", "the event name")
        reason = self._optional_text(config.reason, "reason")
        missing = self._missing(config.on_missing)
        return lambda scope: Cancel(
            instance_id(scope), event(scope), reason(scope), missing(scope), config.on_finished, config.grace
        )

    def _terminate(self, config: TerminateConfig) -> Build:
        instance_id = self._instance_id(config.instance_id)
        output = self._value(config.output, "output")
        missing = self._missing(config.on_missing)
        return lambda scope: Terminate(
            instance_id(scope), output(scope), config.recursive, missing(scope), config.on_finished
        )

    def _suspend(self, config: SuspendConfig) -> Build:
        instance_id, reason = self._instance_id(config.instance_id), self._optional_text(config.reason, "reason")
        missing = self._missing(config.on_missing)
        return lambda scope: Suspend(instance_id(scope), reason(scope), missing(scope), config.on_finished)

    def _resume(self, config: ResumeConfig) -> Build:
        instance_id, reason = self._instance_id(config.instance_id), self._optional_text(config.reason, "reason")
        missing = self._missing(config.on_missing)
        return lambda scope: Resume(instance_id(scope), reason(scope), missing(scope), config.on_finished)

    def _signal_entity(self, config: SignalEntityConfig) -> Build:
        self._static(lambda: check_entity(config.entity, "key"), "entity")
        key = self._template(config.key, "key", lambda text: _entity_key(config.entity, text))
        operation = self._name(config.operation, "operation", "the operation name")
        value = self._value(config.input, "input")
        at, delay = self._time(config.at, "at"), self._delay(config.delay)
        return lambda scope: SignalEntity(
            config.entity, key(scope), operation(scope), value(scope), at(scope), delay(scope)
        )

    def _missing(self, rule: MissingConfig) -> Callable[[ExpressionScope], Missing]:
        if isinstance(rule, OnMissing):
            return lambda _: rule
        if isinstance(rule, WaitMissing):
            wait = WaitFor(rule.wait)
            return lambda _: wait
        path = self._at("on_missing")
        try:
            check_orchestration(rule.start)
        except InvalidCommand as error:
            self.compiler.report((*path, "start"), str(error), "R008")
        value = self.compiler.value(rule.input, (*path, "input"), self._where("on_missing.input"), self.names)
        if value is None:
            return _never
        return lambda scope: StartFirst(rule.start, value.value(scope))

    def _instance_id(self, template: str) -> Callable[[ExpressionScope], str]:
        compiled = self._compiled(template, "instance_id")
        if compiled is None:
            return _never
        if compiled.literal is None and compiled.constant_prefix.startswith(RESERVED_PREFIXES):
            self.compiler.report(
                self._at("instance_id"),
                "an instance id must not begin with '@' (kept for entities) or 'bridge:' (kept for the bridge)",
                "R008",
            )
            return _never
        return self._checked(compiled, "instance_id", check_instance_id)

    def _name(self, template: str, field: str, what: str) -> Callable[[ExpressionScope], str]:
        return self._template(template, field, lambda text: check_name(text, what))

    def _optional_name(self, template: str | None, field: str, what: str) -> Callable[[ExpressionScope], str | None]:
        return _none if template is None else self._name(template, field, what)

    def _optional_text(self, template: str | None, field: str) -> Callable[[ExpressionScope], str | None]:
        return _none if template is None else self._template(template, field, str)

    def _time(self, template: str | None, field: str) -> Callable[[ExpressionScope], datetime | None]:
        return _none if template is None else self._template(template, field, lambda text: parse_time(text, field))

    def _delay(self, template: str | None) -> Callable[[ExpressionScope], float | None]:
        return _none if template is None else self._template(template, "delay", lambda text: parse_delay(text, "delay"))

    def _tags(self, templates: dict[str, str]) -> Callable[[ExpressionScope], dict[str, str]]:
        if not templates:
            return lambda _: {}
        compiled = {name: self._template(text, "tags", str, name) for name, text in templates.items()}
        return lambda scope: {name: render(scope) for name, render in compiled.items()}

    def _value(self, source: str | None, field: str) -> Callable[[ExpressionScope], Any]:
        if source is None:
            return _none
        expression = self.compiler.value(source, self._at(field), self._where(field), self.names)
        return _never if expression is None else expression.value

    def _template(
        self, template: str, field: str, check: Callable[[str], Any], key: str | None = None
    ) -> Callable[[ExpressionScope], Any]:
        compiled = self._compiled(template, field, key)
        return _never if compiled is None else self._checked(compiled, field, check)

    def _checked(self, template: Template, field: str, check: Callable[[str], Any]) -> Callable[[ExpressionScope], Any]:
        """Check the text of a template: a literal once, at compile time; any other with every message."""
        where = self._where(field)
        if template.literal is not None:
            text = template.literal
            checked = self._static(lambda: check(text), field)
            return lambda _: checked
        render = template.render

        def rendered(scope: ExpressionScope) -> Any:
            try:
                return check(render(scope))
            except InvalidCommand as error:
                raise InvalidCommand(f"{where}: {error}", where) from None

        return rendered

    def _compiled(self, template: str, field: str, key: str | None = None) -> Template | None:
        path = self._at(field) if key is None else (*self._at(field), key)
        return compile_template(template, path, self._where(field), self.compiler, self.names)

    def _static(self, check: Callable[[], Any], field: str) -> Any:
        try:
            return check()
        except InvalidCommand as error:
            self.compiler.report(self._at(field), str(error), "R008")
            return None

    def _at(self, field: str) -> ConfigPath:
        return (*self.path, self.route.command, field)

    def _where(self, field: str) -> str:
        return f"route {self.route.name}, {self.route.command}.{field}"


def _entity_key(entity: str, key: str) -> str:
    check_entity(entity, key)
    return key


def _none(_: ExpressionScope) -> None:
    return None


def _never(_: ExpressionScope) -> Any:
    raise AssertionError("a route with problems is not run")
