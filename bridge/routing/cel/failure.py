"""Error texts of the CEL library, translated into clauses that never contain a value of the message."""

from __future__ import annotations

import re

STATUS_CODES = frozenset(
    ("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
     "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
     "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")
)  # fmt: skip
"""Status codes that begin the text of every error value, followed by a colon."""

NOT_A_MAP = "a field was selected from a value that is not a map"
NOT_AN_INDEX = "a list was indexed by something that is not an integer"
NOT_A_CONTAINER = "a value that is neither a map nor a list was indexed"

_KEY = re.compile(r'Key not found in map : "?(.*?)"?$', re.DOTALL)
_OVERLOAD = re.compile(
    r"No matching overloads found : ((?:\([a-z0-9_]+\)\.)?[A-Za-z_@!=<>+\-*/%&|?:\[\]]+)(\([a-z0-9_, .<>]*\))?"
)
_PHRASES = (
    ("Applying SELECT to non-message type", NOT_A_MAP),
    ("Index error: expected integer", NOT_AN_INDEX),
    ("Index error: index=", "a list was indexed outside its bounds"),
    ("Invalid container type", NOT_A_CONTAINER),
    ("divide by zero", "division by zero"),
    ("modulus by zero", "modulus by zero"),
    ("integer overflow", "an integer overflowed 64 bits"),
    ("out of range for", "an integer of the message does not fit 64 bits"),
    ("out of uint64 range", "a number does not fit an unsigned integer"),
    ("out of int64 range", "a number does not fit an integer"),
    ("cannot convert string to", "a string could not be converted to a number"),
    ("String to Timestamp conversion failed", "a string is not an RFC 3339 timestamp"),
    ("String to Duration conversion failed", "a string is not a duration"),
    ("invalid regular expression", "a regular expression is not valid"),
    ("invalid base64 data", "a string is not base64"),
    ("malformed UTF-8", "bytes are not UTF-8"),
    ("Non-CEL value type", "a value is of a type that CEL does not know"),
    ("Iteration budget exceeded", "it took more than 10,000 iterations"),
    ("construction from null", "a string holds a lone surrogate, which is not Unicode text"),
    ("<jump_condition>", "a condition is neither true nor false"),
    (".substring(", "a substring lies outside its string"),
    (".charAt(", "a position lies outside its string"),
)


def sentence(message: str, expression: str) -> str:
    """Clause for people that describes an error.

    A missing key is named only if the expression contains it, because a computed key may be payload.
    """
    if found := _KEY.search(message):
        return missing_key(found[1]) if _written(found[1], expression) else "a computed key is not in its map"
    for part, said in _PHRASES:
        if part in message:
            return said
    if found := _OVERLOAD.search(message):
        if found[1] in ("_&&_", "_||_", "!_"):
            return "a condition is neither true nor false"
        return f"there is no {found[1].replace('_', '').strip('@') or found[1]} for {found[2] or 'these types'}"
    return "it failed"


def missing_key(key: str) -> str:
    """Clause for a missing key, shared by plain access and CEL."""
    return f'there is no key "{key}"'


def _written(key: str, expression: str) -> bool:
    return bool(key) and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", expression) is not None


_COMPILE = re.compile(r"ERROR: <input>:(\d+):(-?\d+): (.*)")
_EXPECTING = re.compile(r"\s*expecting \{.*?\}$")


def compile_text(message: str, expression: str) -> str:
    """Compile error of an expression, its line, and a caret below the column. Several lines."""
    found = _COMPILE.search(message)
    if not found:
        return f"is not a CEL expression\n  {expression}"
    line, column, what = int(found[1]), max(int(found[2]), 1), _EXPECTING.sub("", found[3])
    what = what.replace(" (in container '')", "").replace("'<EOF>'", "the end").removesuffix(" [INVALID_ARGUMENT]")
    lines = expression.split("\n")
    shown = lines[min(line, len(lines)) - 1].replace("\t", " ")
    return f"{what[:1].lower()}{what[1:]}\n  {shown}\n  {' ' * (column - 1)}^"
