"""CEL expressions, compiled once.

An expression that is only a member path (`payload.a.b`) is read by plain access. Plain access returns the value
unchanged, including integers above 64 bits, at a fraction of the cost.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NoReturn

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

from bridge.core.errors import ConfigPath, ExpressionCost, ExpressionError, Locate, Problem
from bridge.core.problems.codes import coded
from bridge.routing.cel import failure, zones
from bridge.routing.cel import map_order as cel_map_order
from bridge.routing.cel.comparison import Comparison, comparison
from bridge.routing.cel.cost import FREE, affordable, estimate, free_weight, reading_cost
from bridge.routing.cel.nulls import LOSES_NULLS, recount
from bridge.routing.cel.projection import Projection, Projections
from bridge.routing.cel.scope import EVENT, ExpressionScope
from bridge.routing.cel.tokens import VariableRead, closing_braces, readings, tokens
from bridge.routing.cel.tree import Node, read
from bridge.routing.cel.value import json_value, kind_name, text

_NONE: Mapping[str, Any] = {}
_SHOWN = 120
"""Maximum number of characters of an expression that an error quotes."""

_WITH_NULLS = frozenset((type(None), dict, list))

ROUTE = frozenset(("event", "payload", "vars"))
ITEM = ROUTE | {"item", "index"}
SOURCE = frozenset(("payload", "headers", "key", "topic", "partition", "offset", "message_id", "timestamp"))
SOURCE |= {"key_base64", "headers_base64", "data_base64"}


@cache
def _environment(variables: frozenset[str]) -> cel.Env:
    return _typed_environment(dict.fromkeys(sorted(variables), cel.Type.DYN))


def _typed_environment(variables: Mapping[str, Any]) -> cel.Env:
    return cel.NewEnv(
        variables=dict(variables),
        extensions=[
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
            ext_math.ExtMath(),
            ext_encoders.ExtEncoders(),
            ext_bindings.ExtBindings(),
        ],
        functions=cel_map_order.functions(),
    )


class Expression:
    """One compiled expression. `where` names its place for errors (`route 'a', when`)."""

    __slots__ = ("_constants", "_free", "_program", "_projection", "_tree", "source", "where")

    def __init__(
        self,
        source: str,
        where: str,
        program: cel.Expression,
        projection: Projection,
        constants: Mapping[str, Any] = _NONE,
    ) -> None:
        """Create an expression.

        constants: variables that are the same for every message.
        """
        self.source = source
        self.where = where
        self._program = program
        self._projection = projection
        self._constants = constants
        self._tree: Node | None = None
        self._free = -1

    @property
    def tree(self) -> Node:
        """Syntax tree with expanded macros."""
        if self._tree is None:
            self._tree = read(self._program.serialize())
        return self._tree

    def condition(self, scope: ExpressionScope) -> bool:
        """Evaluate the expression as a condition.

        Raises: ExpressionError if it fails or does not return true or false.
        """
        try:
            activation, values, size = scope.activation(self._projection)
            if values + size > self._free:
                self._pay(scope, values, size)
            value = self._program.eval(activation).value()
        except (RuntimeError, TypeError, SystemError, ExpressionError) as error:
            self._fail(error)
        if value is True or value is False:
            return value
        if value is None and LOSES_NULLS:
            recount(None)
        return self._not_a_condition(self.value(scope))

    def value(self, scope: ExpressionScope) -> Any:
        """Evaluate the expression to a JSON value. Raises: ExpressionError."""
        try:
            return json_value(self._result(scope))
        except ExpressionError as error:
            self._fail(error)

    def text(self, scope: ExpressionScope) -> str:
        """Evaluate the expression to the text that a template contains. Raises: ExpressionError."""
        try:
            return text(self._result(scope))
        except ExpressionError as error:
            self._fail(error)

    def _result(self, scope: ExpressionScope) -> Any:
        try:
            activation, values, size = scope.activation(self._projection)
            if values + size > self._free:
                self._pay(scope, values, size)
            result = self._program.eval(activation)
            value = result.plain_value()
            if LOSES_NULLS and value.__class__ in _WITH_NULLS:
                recount(value)
            # The type query is expensive, and only a text that begins with a status code can be an error
            if (
                value.__class__ is str
                and value.partition(":")[0] in failure.STATUS_CODES
                and result.type() == cel.Type.ERROR
            ):
                raise ExpressionError(failure.sentence(value, self.source))
            return value
        except RuntimeError as error:
            raise ExpressionError(failure.sentence(str(error), self.source)) from None
        except (TypeError, SystemError, ValueError, OverflowError):
            # the library's errors for a value without a Python form: an optional
            raise ExpressionError("the result has no JSON form; end an optional with .orValue(...)") from None

    def _pay(self, scope: ExpressionScope, values: int, size: int) -> None:
        """Charge the cost of an evaluation. Raises: ExpressionCost if it exceeds the rest of the message's limit."""
        if self._free < 0:
            self._free = free_weight(self.tree, self._constants)
            if values + size <= self._free:
                return
        cost = reading_cost(values, size)
        if cost <= scope.left:
            cost = estimate(self.tree, scope.data(self._projection), self._constants, values, size).cost
        if cost > FREE:
            if cost > scope.left:
                raise ExpressionCost(
                    f"{self.where}: the evaluation may cost more than limits.expression_cost allows for this message, "
                    f"in `{self._shown}`",
                    self.where,
                )
            scope.pay(cost)

    @property
    def _shown(self) -> str:
        return self.source if len(self.source) <= _SHOWN else self.source[: _SHOWN - 1] + "…"

    def affordable(self, allowed: float, largest: int) -> int:
        """Size of an ordinary message, at most `largest`, up to which the expression costs at most `allowed`.

        In bytes.
        """
        return affordable(self.tree, self._constants, allowed, largest)

    def _not_a_condition(self, value: Any) -> NoReturn:
        self._fail(ExpressionError(f"a condition must be true or false, and is {kind_name(value)}"))

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, ExpressionError) and error.expression:
            raise error
        what = str(error) if isinstance(error, ExpressionError) else failure.sentence(str(error), self.source)
        raise ExpressionError(f"{self.where}: {what}, in `{self._shown}`", self.where) from None


class PathExpression(Expression):
    """An expression that is only a member path of a variable."""

    __slots__ = ("_path", "_root")

    def __init__(
        self, source: str, where: str, program: cel.Expression, projection: Projection, reading: VariableRead
    ) -> None:
        super().__init__(source, where, program, projection)
        self._root, below = _root(reading)
        self._path = tuple(zip(reading.path, reading.indexed, strict=True))[below:]

    def affordable(self, allowed: float, largest: int) -> int:
        return largest

    def condition(self, scope: ExpressionScope) -> bool:
        value = self._walk(scope)
        return value if value is True or value is False else self._not_a_condition(value)

    def value(self, scope: ExpressionScope) -> Any:
        value = self._walk(scope)
        return json_value(value) if value.__class__ is bytes else value

    def text(self, scope: ExpressionScope) -> str:
        value = self._walk(scope)
        if value.__class__ is str:
            return str(value)
        try:
            return text(value)
        except ExpressionError as error:
            self._fail(error)

    def _walk(self, scope: ExpressionScope) -> Any:
        value = self._root(scope)
        for key, indexed in self._path:
            if value.__class__ is dict or isinstance(value, Mapping):
                if key not in value:
                    self._fail(ExpressionError(failure.missing_key(key)))
                value = value[key]
            elif not indexed:
                self._fail(ExpressionError(failure.NOT_A_MAP))
            elif isinstance(value, list):
                self._fail(ExpressionError(failure.NOT_AN_INDEX))
            else:
                self._fail(ExpressionError(failure.NOT_A_CONTAINER))
        return value


class ComparedExpression(Expression):
    """An expression that compares a member with a literal.

    CEL evaluates its value and text, which are `true` or `false`.
    """

    __slots__ = ("_answer", "_path", "_root")

    def __init__(
        self,
        source: str,
        where: str,
        program: cel.Expression,
        projection: Projection,
        reading: VariableRead,
        answer: Comparison,
    ) -> None:
        super().__init__(source, where, program, projection)
        self._root, below = _root(reading)
        self._path = reading.path[below:]
        self._answer = answer

    def condition(self, scope: ExpressionScope) -> bool:
        value = self._root(scope)
        for key in self._path:
            if value.__class__ is not dict or key not in value:
                return super().condition(scope)
            value = value[key]
        answer = self._answer(value)
        return super().condition(scope) if answer is None else answer


def _root(reading: VariableRead) -> tuple[Callable[[Any], Any], int]:
    """Function that reads the beginning of a path from a scope, and the number of members it covers."""
    variable = reading.variable
    if variable == "event" and reading.path and reading.path[0] in EVENT:
        member = EVENT[reading.path[0]]
        return (lambda scope: member(scope.envelope)), 1
    return operator.attrgetter(variable), 0


@dataclass
class Compiler:
    """Compiler of the expressions of one configuration, which collects their problems.

    variables: `vars` of the configuration, whose names are checked unless it is None.
    members: known member names of other variables, checked too.
    """

    locate: Locate
    variables: Mapping[str, Any] | None = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    members: Mapping[str, Collection[str]] = field(default_factory=dict)
    compiled: list[tuple[ConfigPath, Expression]] = field(default_factory=list)
    """Expressions without problems, each with its place."""
    places: dict[str, ConfigPath] = field(default_factory=dict)
    """Places by the names that errors give them, like `route start-order, when`."""
    _projections: Projections = field(default_factory=Projections)

    def report(self, path: ConfigPath, what: str, code: str = "R001", offset: int | None = None) -> None:
        """Add a problem. offset: its character in the value at the path; None for the whole value."""
        self.problems.append(replace(coded(code, self.locate(path, what)), offset=offset))

    def set_members(self, members: Mapping[str, Collection[str]]) -> None:
        """Set the known members for the following expressions."""
        self.members = members

    def join(self, other: Compiler) -> None:
        """Add the problems and expressions of another compiler."""
        self.problems += other.problems
        self.compiled += other.compiled

    def name(self, where: str, path: ConfigPath) -> None:
        """Note the name that errors give a place. For several places with one name, note what they have in common."""
        self.places[where] = _common(self.places.get(where, path), path)

    def condition(self, source: str, path: ConfigPath, where: str, names: frozenset[str] = ROUTE) -> Expression | None:
        """Compile an expression that returns true or false; None after a problem."""
        return self._compile(source, path, where, names, _refused_as_condition)

    def value(self, source: str, path: ConfigPath, where: str, names: frozenset[str] = ROUTE) -> Expression | None:
        """Compile an expression that returns a JSON value; None after a problem."""
        return self._compile(source, path, where, names, _refused_as_value)

    def text(
        self, source: str, path: ConfigPath, where: str, names: frozenset[str] = ROUTE, start: int = 0
    ) -> Expression | None:
        """Compile an expression inside a template, where it begins at `start`; None after a problem."""
        return self._compile(source, path, where, names, _refused_as_text, start)

    def _compile(
        self,
        source: str,
        path: ConfigPath,
        where: str,
        names: frozenset[str],
        refused: Callable[[str], str | None],
        start: int = 0,
    ) -> Expression | None:
        environment = _environment(names)
        try:
            program = environment.compile(source)
        except RuntimeError as error:
            if (what := _braces(source)) is not None:
                self.report(path, f"{what}\n  {source}", "R003", start + source.find("{{"))
            else:
                what, at = failure.compile_text(str(error), source)
                self.report(path, what, offset=None if at is None else start + at)
            return None
        if what := refused(program.return_type().name()):
            self.report(path, f"{what}\n  {source}", "R015" if refused is _refused_as_condition else "R001", start)
            return None
        found = readings(source, names)
        if (unknown := self._unknown_member(source, found)) is not None:
            self.report(path, unknown[0], offset=start + unknown[1])
            return None
        projection = self._projections.of(environment, found)
        if (rewritten := cel_map_order.in_order(zones.checked(source))) != source:
            try:
                program = environment.compile(rewritten)
            except RuntimeError:
                self.report(path, f"is nested too deeply\n  {source}", offset=start)
                return None
        expression: Expression
        if len(found) == 1 and found[0].alone:
            expression = PathExpression(source, where, program, projection, found[0])
        elif len(found) == 1 and (answer := comparison(source)) is not None:
            expression = ComparedExpression(source, where, program, projection, found[0], answer)
        else:
            variables = {"vars": self.variables} if self.variables else _NONE
            expression = Expression(source, where, program, projection, variables)
        self.compiled.append((path, expression))
        self.name(where, path)
        return expression

    def _unknown_member(self, source: str, found: Sequence[VariableRead]) -> tuple[str, int] | None:
        """Text and offset of the first member that its variable does not have."""
        for reading in found:
            known: Collection[str] | None = self.members.get(reading.variable)
            if known is None:
                known = {"event": EVENT, "vars": self.variables}.get(reading.variable)
            if known is None or not reading.path or reading.path[0] in known or _bound(source, reading.variable):
                continue
            member = reading.path[0]
            names = ", ".join(map(str, known)) or "nothing"
            column = source.find(member, source.find(reading.variable))
            line_start = source.rfind("\n", 0, column) + 1
            shown = source[line_start:].split("\n", 1)[0]
            mark = " " * (column - line_start) + "^"
            return f"{reading.variable} has no {member}; it has {names}\n  {shown}\n  {mark}", column
        return None


def _common(one: ConfigPath, other: ConfigPath) -> ConfigPath:
    """Longest path that contains both."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(part for part, _ in same)


_typed_environments: dict[tuple[frozenset[str], tuple[tuple[str, str], ...]], cel.Env] = {}
"""Environments of `typed_error`, by the names and types of their variables."""

_MOST_ENVIRONMENTS = 256


def typed_error(source: str, names: frozenset[str], types: Mapping[str, Any]) -> str | None:
    """Error of the CEL library for an expression with variables of known types; None if it compiles.

    names: variables of any type. types: further variables, with their types.
    """
    known = tuple(sorted((name, type_.name()) for name, type_ in types.items()))
    environment = _typed_environments.get((names, known))
    if environment is None:
        environment = _typed_environment(dict.fromkeys(sorted(names), cel.Type.DYN) | dict(types))
        if len(_typed_environments) >= _MOST_ENVIRONMENTS:
            _typed_environments.clear()
        _typed_environments[names, known] = environment
    try:
        environment.compile(source)
    except RuntimeError as error:
        return str(error)
    return None


def compile_error(source: str, names: frozenset[str]) -> str | None:
    """Error of the CEL library for an expression; None if it compiles."""
    try:
        _environment(names).compile(source)
    except RuntimeError as error:
        return str(error)
    return None


def _braces(source: str) -> str | None:
    """Error text for an expression that is written as a template; None for any other."""
    text = source.strip()
    opening = text.find("{{")
    if opening == 0 and (closing := closing_braces(text, 2)) == len(text) - 2 > 0:
        return f"this key is CEL as a whole, without braces; write `{text[2:closing].strip()}`"
    if opening < 0 or closing_braces(text, opening + 2) < 0:
        return None
    return "this key is CEL as a whole, and `{{ }}` belongs into templates; join text, like `'order-' + payload.id`"


def _bound(source: str, variable: str) -> bool:
    """True if a macro may bind the name (`items.map(event, event.sku)`)."""
    found = tokens(source)
    return any(
        token.text == variable and found[at - 1].text in "(," and found[at + 1].text == ","
        for at, token in enumerate(found[:-1])
        if at
    )


def _refused_as_condition(kind: str) -> str | None:
    return None if kind in ("BOOL", "DYN") else f"must give true or false, and gives {failure.type_name(kind)}"


def _refused_as_value(kind: str) -> str | None:
    if kind.startswith("optional_type"):
        return "gives an optional; end it with .orValue(...)"
    return "gives a type, which is not a JSON value" if kind.startswith("TYPE") else None


def _refused_as_text(kind: str) -> str | None:
    if kind.startswith(("LIST", "MAP", "NULL", "BYTES")):
        return f"a template cannot hold {failure.type_name(kind)}"
    return _refused_as_value(kind)
