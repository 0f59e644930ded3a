"""Estimate of the cost of an expression's evaluation, from its syntax tree and the size of the variables it reads.

The CEL library cannot be interrupted, holds the interpreter's lock, and limits only the iterations of macros, to
10,000 in one evaluation. The cost is therefore limited beforehand. Each node adds the processor time of its
executions and the memory of its result, in nanoseconds, at about twice the measured values. The variable of a loop
counts with the sum of its values, not with the largest in each turn, which keeps ordinary expressions over long lists
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from bridge.routing.cel import pattern
from bridge.routing.cel.tree import Const, FunctionCall, Ident, Items, Loop, Node, Select

EXPRESSION_COST = 150_000_000
"""Default cost limit for all expressions of one message: 150 ms, in nanoseconds."""

FREE = 200_000
"""Cost up to which an evaluation is not counted, in nanoseconds."""

ITERATIONS = 10_000
"""Iterations of all macros of one evaluation after which the CEL library fails."""

MEMORY = 2
"""Cost of one byte of memory: 100 MB cost as much as 200 ms."""

_NODE = 200
_CONVERTED, _CONVERTED_BYTE = 400, 2
"""Cost of each value and byte of a message that is converted for CEL, once per evaluation. Includes its measurement."""
_RESULT, _RESULT_BYTE = 1_200, 8
"""Cost of each value and byte of an evaluation's result. An empty list or map is the most expensive value."""
_PRODUCT = 0.02
"""Cost of each pair of bytes when one text is searched for another."""
_HEAVIEST = 1 << 30
_BYTES_PER_VALUE = 8
"""Bytes per value of ordinary JSON. Keys count as values."""
_ABSENT = object()


class SizeBounds(NamedTuple):
    """Upper bounds of the size of a value.

    values: number of values in it: itself, its members and keys.
    size: bytes of its texts.
    all_values, all_size: sums of both over all executions of its node.
    items: members of a list or map, without their own members.
    text: the value of a text, if known.
    most_values, most_size: of the largest member. Negative if only the bounds of the whole value are known.
    """

    values: float
    size: float
    all_values: float
    all_size: float
    items: float
    text: str | None = None
    most_values: float = -1
    most_size: float = -1

    @property
    def largest(self) -> tuple[float, float]:
        """Values and bytes of the largest member."""
        return (self.values, self.size) if self.most_values < 0 else (self.most_values, self.most_size)

    def member(self) -> SizeBounds:
        """Bounds of any member, where each member is used once."""
        values, size = self.largest
        return SizeBounds(values, size, self.all_values, self.all_size, values)


class Estimate(NamedTuple):
    """Estimated cost of an evaluation.

    cost: nanoseconds, including memory.
    result: size of the result, in bytes of text and values.
    """

    cost: float
    result: SizeBounds


def weigh(value: Any) -> tuple[int, int]:
    """Number of values in a JSON value, including keys of maps, and bytes of its text."""
    values = size = 0
    pending = [value]
    while pending:
        current = pending.pop()
        values += 1
        kind = current.__class__
        if kind is str:
            size += len(current) if current.isascii() else 4 * len(current)
        elif kind is dict:
            values += len(current)
            size += 4 * sum(map(len, map(str, current)))
            pending.extend(current.values())
        elif kind is list:
            pending.extend(current)
        elif kind is bytes:
            size += len(current)
    return values, size


def reading_cost(values: int, size: int) -> float:
    """Cost of the conversion of an expression's variables. An evaluation costs at least as much."""
    return values * _CONVERTED + size * _CONVERTED_BYTE


def estimate(tree: Node, data: Mapping[str, Any], constants: Mapping[str, Any], values: int, size: int) -> Estimate:
    """Estimate of an evaluation over variables with the given number of values and bytes of text.

    constants: variables that are the same for every message.
    """
    return _Run(_Data(data, constants)).total(tree, values, size)


def free_weight(tree: Node, constants: Mapping[str, Any]) -> int:
    """Largest weight of variables with which an evaluation costs at most FREE, whatever the variables contain."""
    low, high = 0, 64
    while high <= _HEAVIEST and estimate_at(tree, high, constants).cost <= FREE:
        low, high = high, high * 4
    while high - low > max(low // 8, 8):
        middle = (low + high) // 2
        if estimate_at(tree, middle, constants).cost <= FREE:
            low = middle
        else:
            high = middle
    return low


def estimate_at(tree: Node, weight: int, constants: Mapping[str, Any]) -> Estimate:
    """Estimate of an evaluation over variables of which only the sum of values and bytes is known."""
    return _Run(_Bound(weight, weight, constants)).total(tree, weight, weight)


def affordable(tree: Node, constants: Mapping[str, Any], allowed: float, largest: int) -> int:
    """Size of an ordinary message up to which the expression costs at most `allowed`, in bytes.

    The size is `largest`, or a power of two below it. Each part of the message is assumed to be as large as the whole
    message. A member read within a macro, like `payload.id`, is assumed to be short. The lists that macros build,
    which limit every `map` to some thousand items, are assumed to be free.
    """
    if _Ordinary(largest, constants).total(tree, largest // _BYTES_PER_VALUE, largest).cost <= allowed:
        return largest
    size = 1024
    while size <= largest and _Ordinary(size, constants).total(tree, size // _BYTES_PER_VALUE, size).cost <= allowed:
        size *= 2
    return size // 2


class _Data:
    """Sizes of the contents of a message."""

    def __init__(self, data: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        self._data = {**data, **constants}
        self._known: dict[Node, SizeBounds] = {}

    def size(self, node: Node, times: float) -> SizeBounds | None:
        """Size of a member path of a variable; None for any other node."""
        found = self._known.get(node)
        if found is None:
            value = self._value(node)
            if value is _ABSENT:
                return None
            found = self._known[node] = _measured(value)
        return _times(found, times)

    def _value(self, node: Node) -> Any:
        match node:
            case Ident(name):
                return self._data.get(name, _ABSENT)
            case Select(operand, field, False):
                return _member(self._value(operand), field)
            case FunctionCall("_[_]" | "_[?_]" | "_?._", (operand, Const(str() as field))):
                return _member(self._value(operand), field)
        return _ABSENT


class _Bound:
    """Sizes of variables with unknown contents."""

    def __init__(self, values: int, size: int, constants: Mapping[str, Any]) -> None:
        self._one = SizeBounds(values, size, 0, 0, values)
        self._constants = _Data(constants, {})

    def size(self, node: Node, times: float) -> SizeBounds | None:
        if (known := self._constants.size(node, times)) is not None:
            return known
        return _times(self._one, times) if isinstance(node, Ident) else None


def _measured(value: Any) -> SizeBounds:
    kind = value.__class__
    if kind is not dict and kind is not list:
        values, size = weigh(value)
        return SizeBounds(values, size, 0, 0, 0, value if kind is str else None)
    values, size, most_values, most_size = 1 + len(value), 0, 1, 0
    members: Iterable[Any] = value
    if kind is dict:
        members = value.values()
        values += len(value)
        most_size = 4 * max(map(len, map(str, value)), default=0)
        size += 4 * sum(map(len, map(str, value)))
    for member in members:
        kind = member.__class__
        if kind is str:
            of_member, its_size = 1, len(member) if member.isascii() else 4 * len(member)
        elif kind is dict or kind is list or kind is bytes:
            of_member, its_size = weigh(member)
            values += of_member - 1
        else:
            continue
        size += its_size
        if of_member > most_values:
            most_values = of_member
        if its_size > most_size:
            most_size = its_size
    return SizeBounds(values, size, 0, 0, len(value), None, most_values, most_size)


def _member(value: Any, field: str) -> Any:
    if value is _ABSENT or not isinstance(value, Mapping):
        return _ABSENT
    return value.get(field, _ABSENT)


def _times(one: SizeBounds, times: float) -> SizeBounds:
    return SizeBounds(
        one.values,
        one.size,
        one.values * times,
        one.size * times,
        one.items,
        one.text,
        one.most_values,
        one.most_size,
    )


def _scalar(times: float, size: float = 8) -> SizeBounds:
    return SizeBounds(1, size, times, size * times, 0)


def _sum(parts: tuple[SizeBounds, ...]) -> SizeBounds:
    return SizeBounds(
        sum(part.values for part in parts),
        sum(part.size for part in parts),
        sum(part.all_values for part in parts),
        sum(part.all_size for part in parts),
        sum(part.items for part in parts),
    )


def _most(first: SizeBounds, second: SizeBounds) -> SizeBounds:
    values, size = (max(pair) for pair in zip(first.largest, second.largest, strict=True))
    return SizeBounds(
        max(first.values, second.values),
        max(first.size, second.size),
        max(first.all_values, second.all_values),
        max(first.all_size, second.all_size),
        max(first.items, second.items),
        None,
        values,
        size,
    )


def _product(one: float, all_of_one: float, other: float, all_of_other: float) -> float:
    """Upper bound of the sum of products over all executions."""
    return min(one * all_of_other, other * all_of_one)


class _Run:
    """One estimate. In all methods, `times` is the number of executions of a node."""

    def __init__(self, known: _Data | _Bound) -> None:
        self._known = known
        self._bound: dict[str, tuple[SizeBounds, float]] = {}
        self.cost = 0.0

    def total(self, tree: Node, values: int, size: int) -> Estimate:
        self.cost += reading_cost(values, size)
        result = self.visit(tree, 1)
        self.cost += result.values * _RESULT + result.size * _RESULT_BYTE
        return Estimate(self.cost, result)

    def visit(self, node: Node, times: float) -> SizeBounds:
        self.cost += _NODE * times
        match node:
            case Const(value):
                text = value if isinstance(value, str) else None
                return _times(SizeBounds(1, 8 if value is None else len(value) * 4, 0, 0, 0, text), times)
            case Ident(name) if name in self._bound:
                found, before = self._bound[name]
                return found if times <= before else _times(found, times)
            case Select(_, _, True):
                self.visit(node.operand, times)
                return _scalar(times)
        if isinstance(node, Ident | Select | FunctionCall) and not self._is_bound(node):
            known = self._known.size(node, times)
            if known is not None:
                return known
        match node:
            case Select(operand, _, _):
                return self.visit(operand, times).member()
            case Items(members):
                self.cost += 300 * len(members) * times
                parts = tuple(self.visit(member, times) for member in members)
                made = _sum((_scalar(times), *parts))
                return SizeBounds(made.values, made.size, made.all_values, made.all_size, len(members))
            case FunctionCall(function, args):
                return self._call(function, args, times)
            case Loop():
                return self._loop(node, times)
        return _scalar(times)  # a missing variable: the evaluation fails

    def _is_bound(self, node: Node) -> bool:
        """True for a member path of a variable bound by a macro."""
        while isinstance(node, Select | FunctionCall):
            if isinstance(node, Select):
                node = node.operand
            elif node.args:
                node = node.args[0]
            else:
                return False
        return isinstance(node, Ident) and node.name in self._bound

    def _loop(self, loop: Loop, times: float) -> SizeBounds:
        span = self._list(loop.range, times)
        turns = min(ITERATIONS, span.items * times, span.all_values) if span.items else 0
        start = self.visit(loop.start, times)
        if turns == 0:  # `cel.bind`, or an empty range
            return self._with({loop.accumulator: (start, times)}, loop.result, times)
        bound = {loop.variable: (span.member(), turns), loop.accumulator: (_scalar(turns), turns)}
        made = self._step(loop.step, loop.accumulator, bound, turns)
        if made is None:
            grown = _scalar(times)
        else:
            # The library copies the list built so far with each member
            longest = min(turns, span.items)
            self._copied(longest * turns / 2)
            values = min(made.all_values, made.values * longest) + 1
            size = min(made.all_size, made.size * longest)
            grown = SizeBounds(
                values, size, made.all_values + times, made.all_size, longest, None, made.values, made.size
            )
        return self._with({loop.accumulator: (grown, times)}, loop.result, times)

    def _list(self, node: Node, times: float) -> SizeBounds:
        """Size of the range of a loop."""
        return self.visit(node, times)

    def _copied(self, members: float) -> None:
        self.cost += members * (50 + 32 * MEMORY)

    def _step(
        self, step: Node, accumulator: str, bound: Mapping[str, tuple[SizeBounds, float]], turns: float
    ) -> SizeBounds | None:
        """Member that a turn adds to the resulting list; None if it adds none. Macros have no other steps."""
        match step:
            case FunctionCall("_?_:_", (condition, step, Ident(name))) if name == accumulator:
                self._with(bound, condition, turns)
                return self._step(step, accumulator, bound, turns)
            case FunctionCall("_+_", (Ident(name), Items((member,)))) if name == accumulator:
                return self._with(bound, member, turns)
        self._with(bound, step, turns)
        return None

    def _with(self, bound: Mapping[str, tuple[SizeBounds, float]], node: Node, times: float) -> SizeBounds:
        before = self._bound
        self._bound = {**before, **bound}
        try:
            return self.visit(node, times)
        finally:
            self._bound = before

    def _call(self, function: str, nodes: tuple[Node, ...], times: float) -> SizeBounds:
        if function == "@in":
            args: tuple[SizeBounds, ...] = (self.visit(nodes[0], times), self._list(nodes[1], times))
        else:
            args = tuple(self.visit(node, times) for node in nodes)
        self.cost += _NODE * times
        if (special := _SPECIAL.get(function)) is not None:
            return special(self, args, times)
        self._read(args)
        if function in _SCALAR:
            return _scalar(times, 40)
        made = _sum((_scalar(times, 40), *args))
        factor = _GROWTH.get(function, 1.0)
        made = SizeBounds(made.values, made.size * factor, made.all_values, made.all_size * factor, made.items)
        self.cost += made.all_size * 2 * MEMORY
        return made

    def _read(self, args: tuple[SizeBounds, ...]) -> None:
        for arg in args:
            self.cost += arg.all_values * 60 + arg.all_size * 10

    # Functions whose cost or result is not proportional to their arguments

    def _pass(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        return args[0] if args else _scalar(times)

    def _part(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        place, key = args
        self.cost += key.all_size
        values, size = place.largest
        return SizeBounds(
            values, size, min(place.all_values, values * times), min(place.all_size, size * times), values
        )

    def _branch(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        return _most(args[-2], args[-1])

    def _logic(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        return _scalar(times)

    def _equal(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        self.cost += min(arg.all_values for arg in args) * 150 + min(arg.all_size for arg in args) * 0.5
        return _scalar(times)

    def _in(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        needle, place = args
        self.cost += place.all_values * 60 + place.all_size * 0.5 + needle.all_values * 60 + needle.all_size
        return _scalar(times)

    def _add(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        made = _sum(args)
        self.cost += made.all_values * (50 + 50 * MEMORY) + made.all_size * (1 + MEMORY)
        return made

    def _search(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        self._find(args)
        return _scalar(times)

    def _find(self, args: tuple[SizeBounds, ...]) -> None:
        text, wanted = args[:2]
        self.cost += text.all_size * 10 + wanted.all_size * 10
        self.cost += _product(text.size, text.all_size, wanted.size, wanted.all_size) * _PRODUCT

    def _split(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        text, separator = args[:2]
        self._find(args)
        self.cost += text.all_size * 80
        pieces, all_pieces = text.size + 1, text.all_size + times
        if text.text is not None and separator.text:
            pieces = text.text.count(separator.text) + 1
            all_pieces = pieces * times
        elif separator.text:
            pieces, all_pieces = pieces / len(separator.text) + 1, all_pieces / len(separator.text) + times
        self.cost += all_pieces * (100 + 60 * MEMORY)
        return SizeBounds(pieces + 1, text.size, all_pieces + times, text.all_size, pieces)

    def _replace(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        text, wanted, new = args[:3]
        self._find(args)
        self.cost += text.all_size * 50
        width = max(1, len(wanted.text)) if wanted.text is not None else 1
        found = text.size / width + 1
        size = text.size + found * new.size
        all_size = text.all_size + _product(found, text.all_size / width + times, new.size, new.all_size)
        self.cost += all_size * (2 + 2 * MEMORY)
        return SizeBounds(1, size, times, all_size, 0)

    def _join(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        parts, between = args[0], args[1] if len(args) > 1 else _scalar(times, 0)
        size = parts.size + parts.values * between.size
        all_size = parts.all_size + _product(parts.values, parts.all_values, between.size, between.all_size)
        self.cost += parts.all_values * 100 + all_size * (2 + 2 * MEMORY)
        return SizeBounds(1, size, times, all_size, 0)

    def _format(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        text, values = args[:2]
        plain = text.text is not None and not any(verb in text.text for verb in ("f", "e", "."))
        width = (
            70 if plain else 1400
        )  # a double has up to 310 digits before its point, and up to 1,000 digits may be requested after it
        size = text.size + 8 * values.size + width * values.values
        all_size = text.all_size + 8 * values.all_size + width * values.all_values
        self.cost += values.all_values * 300 + all_size * (4 + 2 * MEMORY)
        return SizeBounds(1, size, times, all_size, 0)

    def _matches(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        text, wanted = args[:2]
        if wanted.text is not None:
            found = pattern.measure(wanted.text)
            made, states = 5_000 + found.states * 2_000 + found.wide * 1_500_000, float(found.states)
            self.cost += made * times
        else:
            # The pattern is unknown: a Unicode class has three characters and an automaton of several hundred
            # states, and up to a thousand repetitions
            self.cost += 40_000_000 * times + wanted.all_size * 60_000
            states = min(wanted.size * 1000, 65_536)
        self.cost += text.all_size * states * 15
        return _scalar(times)

    def _sorted(self, args: tuple[SizeBounds, ...], times: float) -> SizeBounds:
        self.cost += args[0].all_values * 1500 + args[0].all_size * 10
        return args[0]


class _Ordinary(_Run):
    """Estimate for `affordable`."""

    def __init__(self, size: int, constants: Mapping[str, Any]) -> None:
        super().__init__(_Bound(size // _BYTES_PER_VALUE, size, constants))
        self._within_list = False

    def visit(self, node: Node, times: float) -> SizeBounds:
        if times > 1 and not self._within_list and isinstance(node, Select) and not self._is_bound(node):
            return _scalar(times, 64)
        return super().visit(node, times)

    def _list(self, node: Node, times: float) -> SizeBounds:
        before, self._within_list = self._within_list, True
        try:
            return super()._list(node, times)
        finally:
            self._within_list = before

    def _copied(self, members: float) -> None:
        pass


_SPECIAL: Mapping[str, Callable[[_Run, tuple[SizeBounds, ...], float], SizeBounds]] = {
    "_[_]": _Run._part, "_[?_]": _Run._part, "_?._": _Run._part, "dyn": _Run._pass, "value": _Run._pass,
    "optional.of": _Run._pass, "optional.ofNonZeroValue": _Run._pass, "optional.none": _Run._pass,
    "or": _Run._branch, "orValue": _Run._branch, "_?_:_": _Run._branch,
    "_&&_": _Run._logic, "_||_": _Run._logic, "!_": _Run._logic, "@not_strictly_false": _Run._logic,
    "hasValue": _Run._logic, "type": _Run._logic,
    "_==_": _Run._equal, "_!=_": _Run._equal, "@in": _Run._in, "_+_": _Run._add,
    "contains": _Run._search, "indexOf": _Run._search, "lastIndexOf": _Run._search,
    "split": _Run._split, "replace": _Run._replace, "join": _Run._join, "format": _Run._format,
    "matches": _Run._matches, "sorted_keys_": _Run._sorted,
}  # fmt: skip

_SCALAR = frozenset(
    (
        "_<_", "_<=_", "_>_", "_>=_", "_-_", "_*_", "_/_", "_%_", "-_", "size", "startsWith", "endsWith", "int", "uint",
        "double", "bool", "timestamp", "duration", "math.@max", "math.@min",
    )
)  # fmt: skip

_GROWTH = {"strings.quote": 10.0, "base64.encode": 1.5, "string": 2.0}
"""Factor by which the result of a function may be longer than its argument."""
