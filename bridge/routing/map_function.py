"""Functions of users that `map` names: loaded at compile time, called for messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.core.errors import ConfigPath, ExpressionError
from bridge.core.message import Envelope
from bridge.routing.cel.expression import Compiler

MapFunction = Callable[[Envelope], Any]
"""Function from a message to its new payload."""

LoadFunction = Callable[[str], MapFunction]
"""Function that resolves `module:function`. Any exception that it raises becomes a problem, with its text."""


def load_map(load: LoadFunction | None, name: str | None, path: ConfigPath, compiler: Compiler) -> MapFunction | None:
    """Load the function at a path. None if there is none, if functions are left out, and after a problem."""
    if name is None or load is None:
        return None
    try:
        return load(name)
    except Exception as error:  # imports a module of the user, which may raise anything
        compiler.report(path, str(error), "C013")
        return None


def call_map(function: MapFunction | None, envelope: Envelope, where: str) -> Any:
    """Payload that the function makes of a message. where: names its place for errors. Raises: ExpressionError."""
    if function is None:
        raise ExpressionError(f"{where}: the function was not loaded", where)
    try:
        return function(envelope)
    except Exception as error:
        # the error's text may quote the payload
        raise ExpressionError(f"{where}: the function raised {type(error).__name__}", where) from error
