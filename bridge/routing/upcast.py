"""Upcasts of one source: payloads of older versions in the form that the rules read. Pure, but for `map` functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.config.model.sources import UpcastConfig
from bridge.core.errors import ConfigPath
from bridge.core.message import Envelope
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.scope import RouteScope
from bridge.routing.index import ValueReader, reader, values
from bridge.routing.map_function import LoadFunction, MapFunction, call_map, load_map


@dataclass(frozen=True, slots=True)
class _Upcast:
    """One entry of `upcast:`. match: readers with the values of which any may be equal."""

    where: str
    match: Sequence[tuple[ValueReader, frozenset[Any]]]
    data: Expression | None
    function: MapFunction | None
    dataschema: str | None

    def applies(self, envelope: Envelope) -> bool:
        return all(read(envelope) in wanted for read, wanted in self.match)


class Upcasts:
    """Entries of `upcast:` of one source, tried in their order. An entry sees the result of those before it."""

    def __init__(self, upcasts: Sequence[_Upcast], variables: Mapping[str, Any], allowed: float) -> None:
        self._upcasts = upcasts
        self._variables = variables
        self._allowed = allowed

    def __call__(self, envelope: Envelope) -> Envelope:
        """Envelope in the newest form. Raises: ExpressionError, ExpressionCost."""
        for each in self._upcasts:
            if each.applies(envelope):
                data = self._data(each, envelope)
                schema = envelope.dataschema if each.dataschema is None else each.dataschema
                envelope = replace(envelope, data=data, dataschema=schema)
        return envelope

    def _data(self, upcast: _Upcast, envelope: Envelope) -> Any:
        if upcast.data is not None:
            return upcast.data.value(RouteScope(envelope, envelope.data, self._variables, self._allowed))
        return call_map(upcast.function, envelope, upcast.where)


def compile_upcasts(
    source: str,
    configs: Sequence[UpcastConfig],
    compiler: Compiler,
    functions: LoadFunction | None,
    allowed: float,
) -> Upcasts | None:
    """Compile the upcasts of a source; None without any. Problems are reported to the compiler.

    functions: None leaves functions of `map` out, and an upcast with one fails when it runs.
    allowed: cost that the expressions of one message may have, in nanoseconds.
    """
    found = []
    for position, config in enumerate(configs):
        path: ConfigPath = ("sources", source, "upcast", position)
        where = f"source {source}, upcast {position + 1}"
        data = None if config.data is None else compiler.value(config.data, (*path, "data"), where)
        if config.map is not None:
            compiler.name(where, (*path, "map"))
        function = load_map(functions, config.map, (*path, "map"), compiler)
        match = [(reader(key), frozenset(values(wanted))) for key, wanted in config.match.items()]
        found.append(_Upcast(where, match, data, function, config.dataschema))
    return Upcasts(found, compiler.variables or {}, allowed) if found else None
