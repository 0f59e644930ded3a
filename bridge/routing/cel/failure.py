"""Error texts of the CEL library, translated into clauses that never contain a value of the message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

STATUS_CODES = frozenset(
    ("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
     "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
     "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")
)  # fmt: skip
"""Status codes that begin the text of every error value, followed by a colon."""

NOT_A_MAP = "a member was read from a value that is not a map"
NOT_AN_INDEX = "a list was indexed by a value that is not an integer"
NOT_A_CONTAINER = "an index was used on a value that is neither a map nor a list"
_NOT_A_CONDITION = "a condition is neither true nor false"

_KEY = re.compile(r'Key not found in map : "?(.*?)"?$', re.DOTALL)
_OVERLOAD = re.compile(
    r"No matching overloads found : (?:\(([a-z0-9_]+)\)\.)?([A-Za-z_@!=<>+\-*/%&|?:\[\]]+)(?:\(([a-z0-9_, .<>]*)\))?"
)
_PHRASES = (
    ("Applying SELECT to non-message type", NOT_A_MAP),
    ("Index error: expected integer", NOT_AN_INDEX),
    ("Index error: index=", "a list was indexed outside its bounds"),
    ("Invalid container type", NOT_A_CONTAINER),
    ("divide by zero", "division by zero"),
    ("modulus by zero", "modulus by zero"),
    ("integer overflow", "the result of an integer operation exceeds 64 bits"),
    ("out of range for", "an integer of the message exceeds 64 bits"),
    ("out of uint64 range", "a number does not fit an unsigned integer of 64 bits"),
    ("out of int64 range", "a number does not fit an integer of 64 bits"),
    ("cannot convert string to", "text could not be converted to a number"),
    ("String to Timestamp conversion failed", "text is not an RFC 3339 timestamp"),
    ("String to Duration conversion failed", "text is not a duration"),
    ("invalid regular expression", "a regular expression is not valid"),
    ("invalid base64 data", "text is not base64"),
    ("malformed UTF-8", "bytes are not UTF-8"),
    ("Non-CEL value type", "a value has a type that CEL does not support"),
    ("Iteration budget exceeded", "the expression took more than 10,000 iterations"),
    ("construction from null", "text holds a lone surrogate, which is not Unicode"),
    ("<jump_condition>", _NOT_A_CONDITION),
    ("<iter_range>", "a value that is neither a list nor a map has no items"),
    (".substring(", "a substring lies outside its text"),
    (".charAt(", "a position lies outside its text"),
)


def sentence(message: str, expression: str) -> str:
    """Clause for people that describes an error.

    A missing key is named only if the expression contains it, because a computed key may be payload.
    """
    if found := _KEY.search(message):
        return missing_key(found[1]) if _written(found[1], expression) else "a computed key is not in its map"
    for part, text in _PHRASES:
        if part in message:
            return text
    if found := _OVERLOAD.search(message):
        given = [found[1]] if found[1] else []
        return overload(found[2], given + ([*found[3].split(", ")] if found[3] else []))
    return "the evaluation failed"


def missing_key(key: str) -> str:
    """Clause for a missing key, shared by plain access and CEL."""
    return f'there is no key "{key}"'


def _written(key: str, expression: str) -> bool:
    return bool(key) and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", expression) is not None


# -- types and operators in words

_TYPES = {
    "bool": "true or false", "string": "text", "bytes": "bytes", "null": "null", "null_type": "null",
    "list": "a list", "map": "a map", "timestamp": "a time", "duration": "a duration", "type": "a type",
    "optional_type": "an optional", "int": "an integer", "uint": "an unsigned integer", "double": "a decimal number",
}  # fmt: skip
_NUMBERS = frozenset({"int", "uint", "double"})
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "take the remainder of"}
_CONVERSIONS = {"int": "int(...)", "uint": "uint(...)", "double": "double(...)"}


def type_name(word: str) -> str:
    """Name of a CEL type, for people. word: as the library writes it: `list<int>`, `google.protobuf.Duration`."""
    return _TYPES.get(_plain(word), "a value")


def _plain(word: str) -> str:
    return re.split(r"[<(]", word.strip(), maxsplit=1)[0].rpartition(".")[2].lower().removesuffix("64")


def overload(operation: str, given: Sequence[str]) -> str:
    """Clause for an operator or function that does not accept its arguments. given: types of the arguments."""
    types = [_plain(each) for each in given]
    operator = operation.strip("@_").replace("_", "") if operation.startswith(("_", "@")) else operation.rstrip("_")
    if operator in ("&&", "||", "!"):
        return _NOT_A_CONDITION
    if operator == "?:":
        if types[:1] not in ([], ["bool"]):
            return f"{_NOT_A_CONDITION}: it is {type_name(types[0])}"
        return "the two results of `? :` must have the same type"
    if operator == "-" and len(types) == 1:
        return f"cannot negate {type_name(types[0])}"
    left, right = _pair(types) if len(types) == 2 else ("", "")
    if left and operator in _COMPARISONS:
        return f"cannot compare {left} with {right}{_conversion(types)}"
    if left and operator in _ARITHMETIC:
        return f"cannot {_ARITHMETIC[operator]} {left} and {right}{_conversion(types)}"
    if left and operator == "[]":
        return f"cannot index {left} with {right}"
    if left and operator == "in":
        return f"cannot look for {left} in {right}"
    return f"`{operator}` does not accept {_listed(types) if types else 'these types'}"


def _pair(types: Sequence[str]) -> list[str]:
    """Names of two types. Numbers are only distinguished where both are numbers."""
    if set(types) <= _NUMBERS:
        return [type_name(each) for each in types]
    return ["a number" if each in _NUMBERS else type_name(each) for each in types]


def _conversion(types: Sequence[str]) -> str:
    numbers = [each for each in types if each in _NUMBERS]
    if len(set(numbers)) == 2:
        return f"; convert one with {_CONVERSIONS['double' if 'double' in numbers else 'int']}"
    return "; convert one with string(...) or double(...)" if numbers and "string" in types else ""


def _listed(types: Sequence[str]) -> str:
    return " and ".join(_pair(types) if len(types) == 2 else map(type_name, types))


# -- errors of the parser and the type checker

_COMPILE = re.compile(r"ERROR: <input>:(\d+):(-?\d+): (.*)")
_END = "<EOF>"
_SPELLINGS = {
    "=": "==", "===": "==", "!==": "!=", "<>": "!=", "=>": ">=", "=<": "<=", "=!": "!=", "&": "&&", "|": "||",
    "and": "&&", "or": "||", "not": "!", "is": "==", "AND": "&&", "OR": "||", "NOT": "!",
    "True": "true", "False": "false", "None": "null", "nil": "null",
}  # fmt: skip
"""Operators and words of other languages, with those of CEL."""
_VARIABLES = {each: each for each in ("payload", "event", "vars")}
_FUNCTIONS = {
    each.lower(): each
    for each in (
        "size", "startsWith", "endsWith", "contains", "matches", "lowerAscii", "upperAscii", "replace", "split",
        "join", "indexOf", "substring", "trim", "string", "double", "int", "timestamp", "duration", "exists", "filter",
    )
} | {
    "len": "size", "length": "size", "lower": "lowerAscii", "tolowercase": "lowerAscii", "upper": "upperAscii",
    "touppercase": "upperAscii", "strip": "trim", "str": "string", "float": "double", "includes": "contains",
}  # fmt: skip
"""Functions of CEL and words of other languages, in lower case, with those of CEL."""
_OPTIONALS = {"?.": ".?", "??": ".orValue(...)"}
_FOREIGN = re.compile(r"\?\.(?=[A-Za-z_])|\?\?")
"""Operators for missing values in other languages, with those of CEL."""
_WORD = re.compile(r"\w+|[=!<>&|]+|\S")


def compile_text(message: str, expression: str) -> tuple[str, int | None]:
    """Compile error of an expression in words, its line, and a caret below the column: several lines.

    The second result is the offset of that column in the expression; None if the library names no place.
    """
    found = _COMPILE.search(message)
    if not found:
        return f"is not a CEL expression\n  {expression}", None
    column = max(int(found[2]), 1)
    lines = expression.split("\n")
    number = min(int(found[1]), len(lines)) - 1
    shown = lines[number].replace("\t", " ")
    what = _cause(found[3])
    clause = _compile_sentence(what, shown, column - 1)
    culprit = _culprit(what, shown, column - 1)
    at = column - 1 if culprit is None else culprit[0]
    before = sum(len(line) + 1 for line in lines[:number])
    return f"{clause}\n  {shown}\n  {' ' * at}^", min(before + at, len(expression))


def _cause(text: str) -> str:
    """Error of the library without what follows the cause, in lower case."""
    text = text.replace(" (in container '')", "").removesuffix(" [INVALID_ARGUMENT]")
    return text[:1].lower() + text[1:]


def misspelling(message: str, expression: str) -> tuple[int, int, str] | None:
    """Start and end of a word of another language that caused a compile error, and the word of CEL in its place."""
    found = _COMPILE.search(message)
    if not found:
        return None
    lines = expression.split("\n")
    number = min(int(found[1]), len(lines)) - 1
    what = _cause(found[3])
    culprit = _culprit(what, lines[number], max(int(found[2]), 1) - 1)
    if culprit is None:
        return None
    before = sum(len(line) + 1 for line in lines[:number])
    start, word = culprit
    return before + start, before + start + len(word), _SPELLINGS[word]


def _culprit(what: str, line: str, at: int) -> tuple[int, str] | None:
    """Place and text of a word or operator of another language that an error is about."""
    if found := re.match(r"undeclared reference to '(.+)'", what):
        is_there = found[1] in _SPELLINGS and line.startswith(found[1], at)
        return (at, found[1]) if is_there else None
    if not what.startswith("syntax error: ") or f"'{_END}'" in what:
        return None
    before: re.Match[str] | None = None
    for found in _WORD.finditer(line):
        if found.start() <= at < found.end():
            if found[0] in _SPELLINGS:
                return found.start(), found[0]
            return (before.start(), before[0]) if before is not None and before[0] in _SPELLINGS else None
        before = found
    return None


def _meant(word: str, known: Mapping[str, str]) -> str:
    """Hint for an unknown word. known: words in lower case, with those of CEL."""
    near = difflib.get_close_matches(word.lower(), known, 1, 0.75)
    return f"; did you mean `{known[near[0]]}`?" if near and known[near[0]] != word else ""


def _compile_sentence(what: str, line: str, at: int) -> str:
    """Clause for an error of the parser or the type checker. at: its place in the line."""
    if found := re.match(r"undeclared reference to '(.+)'", what):
        if found[1] in _SPELLINGS:
            return f"write `{_SPELLINGS[found[1]]}` instead of `{found[1]}`"
        if line[at : at + 1] == "(":
            return f"there is no function `{found[1]}` for these arguments{_meant(found[1], _FUNCTIONS)}"
        if found[1].partition(".")[0] in ("item", "index"):
            return f"there is no variable `{found[1]}`; only the command of a rule with `for_each` has item and index"
        if found[1] in ("yes", "no", "on", "off"):
            return f"there is no variable `{found[1]}`; write `true` or `false`"
        return f"there is no variable `{found[1]}`{_meant(found[1].partition('.')[0], _VARIABLES)}"
    if found := re.match(r"found no matching overload for '(.+)' applied to '\((.*)\)'", what):
        return overload(found[1], _arguments(found[2]))
    if found := re.match(r"reserved identifier: (\w+)", what):
        return f"`{found[1]}` is a reserved word" + ("; write `CONDITION ? A : B`" if found[1] == "if" else "")
    if found := re.match(r"syntax error: token recognition error at: '(.+)'$", what):
        if "\\" in found[1] and found[1][0] in "'\"":
            return "a backslash begins no valid escape; write two, or a raw text like r'\\d'"
        if found[1][0] in "'\"" or found[1][:2] in ("r'", 'r"', "b'", 'b"'):
            return "the closing quote is missing"
        return _unexpected(line, at)
    if found := re.match(r"syntax error: missing '(.+)' at (.+)$", what):
        place = "at the end" if _END in found[2] else f"before `{found[2][1:-1]}`"
        return f"`{found[1]}` is missing {place}"
    if what.startswith("syntax error: ") and (foreign := _FOREIGN.search(line)) is not None:
        return f"`{foreign[0]}` is not CEL; write `{_OPTIONALS[foreign[0]]}`"
    if what.startswith("syntax error: "):
        if f"'{_END}'" in what:
            lacks = re.search(r"expecting '(.+)'$", what)
            return "the expression ends too early" + (f"; `{lacks[1]}` is missing" if lacks else "")
        return _unexpected(line, at)
    if what.startswith("has() argument"):
        return "has() needs a member, like `has(payload.id)`"
    if found := re.match(r"(\w+)\(\) variable name must be a simple identifier", what):
        return f"{found[1]}() needs a name for each item first, like `payload.lines.{found[1]}(line, line.price > 5)`"
    if found := re.match(r"expression of type '(.+)' cannot be the operand of a select operation", what):
        return f"{type_name(found[1])} has no members"
    if what.startswith(("invalid int literal", "invalid uint literal")):
        return "the number does not fit 64 bits"
    return what


def _arguments(text: str) -> list[str]:
    """Types in a list that may contain commas in brackets."""
    return re.findall(r"(?:[^,(]|\([^()]*(?:\([^()]*\)[^()]*)*\))+", text)


def _unexpected(line: str, at: int) -> str:
    """Clause for a part that cannot stand at its place."""
    if (culprit := _culprit("syntax error: ", line, at)) is not None:
        return f"write `{_SPELLINGS[culprit[1]]}` instead of `{culprit[1]}`"
    for found in _WORD.finditer(line):
        if found.start() <= at < found.end():
            if found[0] in "“”„‘’":
                return "write straight quotes, ' or \""
            return f"`{found[0]}` is not expected here"
    return "the expression ends too early" if not line[at:].strip() else "the expression is not valid here"
