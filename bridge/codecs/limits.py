"""Limits of untrusted bodies, and parsing of JSON: limited in depth, exact in integers, strict in encoding."""

from __future__ import annotations

import codecs
import json
import math
from itertools import accumulate
from typing import Any

import orjson

from bridge.config.model.sources import LimitsConfig
from bridge.core.bytetext import compact_json
from bridge.core.errors import DecodedTooLarge, DecodeError, PayloadTooDeep, PayloadTooLarge, TooManyValues

_OPEN, _CLOSE = b"[{", b"]}"
_NO_MARKS = bytes(byte for byte in range(256) if byte not in _OPEN + _CLOSE + b'"')
# Openers become +1 and closers -1 when read as signed bytes
_SIGNS = bytes(1 if byte in _OPEN else 255 if byte in _CLOSE else byte for byte in range(256))
# Digits become "0", minus stays, all else becomes blank: then a long integer is a substring search
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte if byte == 0x2D else 0x20 for byte in range(256))
_MAYBE_LONG = b"0" * 19
_LONG = b"0" * 20
_LONG_NEGATIVE = b"-" + b"0" * 19


DEFAULT_LIMITS = LimitsConfig()


class Budget:
    """Values and bytes that one body may still decode to."""

    __slots__ = ("limits", "size", "values")

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.values = limits.max_values
        self.size = limits.max_decoded

    def take(self, values: int, size: int = 0) -> None:
        """Account for values, and bytes of names and texts, before they are created.

        Raises: TooManyValues, DecodedTooLarge.
        """
        self.values -= values
        if self.values < 0:
            raise too_many_values(self.limits)
        self.size -= size
        if self.size < 0:
            raise DecodedTooLarge(
                f"the payload has more than the {self.limits.max_decoded} bytes that limits.max_decoded allows"
            )


class MisfitValue(Exception):
    """A value in a body that contradicts its schema. what: predicate, such as `is cut off`. path: place in the data."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.path = ""

    def prefix(self, step: str) -> None:
        """Put a step in front of the path."""
        self.path = step + self.path


def too_many_values(limits: LimitsConfig) -> TooManyValues:
    """Error for a body with more than `max_values` values."""
    return TooManyValues(f"the body has more than the {limits.max_values} values that limits.max_values allows")


def without_mark(body: bytes) -> bytes:
    """The body without a leading UTF-8 byte order mark, which some editors and libraries write."""
    return body.removeprefix(codecs.BOM_UTF8)


def check_size(body: bytes, limits: LimitsConfig) -> None:
    """Check the size of a body. Raises: PayloadTooLarge."""
    if len(body) > limits.max_payload:
        raise PayloadTooLarge(
            f"the body has {len(body)} bytes, more than the {limits.max_payload} that limits.max_payload allows"
        )


def check_depth(body: bytes, max_depth: int) -> None:
    """Check the nesting of a JSON text by its brackets, without parsing it.

    The depth is exact for well-formed JSON. For malformed text it is never lower than the depth that a parser would
    reach before it stops. Raises: PayloadTooDeep.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    if b"\\" in body:
        # Runs of backslashes pair up from the left; a backslash that is left before a quote escapes it
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes without a bracket between them: without both, every bracket stays inside or outside of strings
    marks = body.translate(_SIGNS, _NO_MARKS).replace(b'""', b"")
    outside_strings = b"".join(marks.split(b'"')[::2])
    if max(accumulate(memoryview(outside_strings).cast("b")), default=0) > max_depth:
        raise PayloadTooDeep(f"the body nests deeper than the {max_depth} levels that limits.max_depth allows")


def check_values(body: bytes, limits: LimitsConfig) -> None:
    """Count the values of a JSON text by its brackets and commas, without parsing it. Exact for well-formed JSON.

    Raises: TooManyValues.
    """
    if len(body) < limits.max_values or body.count(b",") + body.count(b"[") + body.count(b"{") < limits.max_values:
        return
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A quote stays in place of a string; otherwise ["a"] would look like an empty array
    bare = b'"'.join(body.translate(None, b" \t\r\n").split(b'"')[::2])
    empty = bare.count(b"[]") + bare.count(b"{}")
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") - empty >= limits.max_values:
        raise too_many_values(limits)


def parse_json(body: bytes, limits: LimitsConfig) -> Any:
    """Value of a JSON text in UTF-8, with or without a byte order mark.

    Integers are exact up to the range of a double (308 digits); the last value of a repeated key counts.
    Raises: DecodeError for malformed JSON, NaN and Infinity, invalid UTF-8, lone surrogates, numbers beyond the range
    of a double; PayloadTooDeep; TooManyValues. The text never quotes the body.
    """
    body = without_mark(body)
    check_depth(body, limits.max_depth)
    check_values(body, limits)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body:
            raise DecodeError("the body is empty where JSON is expected") from None
        # `msg` is one of orjson's fixed phrases and quotes nothing
        raise DecodeError(
            f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    digits = body.translate(_DIGITS)
    if _MAYBE_LONG in digits and (_LONG in digits or _LONG_NEGATIVE in digits):
        return _exact(body)
    return value


def _exact(body: bytes) -> Any:
    """Parse again a body that orjson accepted, to keep integers of more than 64 bits, which orjson turns into
    floats.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise PayloadTooDeep("the body nests too deep to keep its integers of more than 64 bits exact") from None


def write_json(value: Any) -> bytes:
    """Compact JSON in UTF-8, including integers of any size.

    Raises: DecodeError when the value has no JSON form (NaN, Infinity, bytes, sets, lone surrogates, cycles).
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        return _write_exact(value)
    # orjson writes NaN and Infinity as null: a closer check is needed only when there is a null
    if b"null" in text and not _is_finite(value):
        raise DecodeError("the event's data holds NaN or Infinity, which JSON cannot carry")
    return text


def _is_finite(value: Any) -> bool:
    open_values = [value]
    while open_values:
        current = open_values.pop()
        if isinstance(current, dict):
            open_values.extend(current.values())
        elif isinstance(current, list | tuple):
            open_values.extend(current)
        elif isinstance(current, float) and not math.isfinite(current):
            return False
    return True


def _write_exact(value: Any) -> bytes:
    """Write a value that orjson refuses: either it has integers of more than 64 bits, or the error states the
    reason.
    """
    try:
        return compact_json(value)
    except RecursionError:
        raise DecodeError("the event's data nests too deep to be written as JSON") from None
    except UnicodeEncodeError:
        raise DecodeError("the event's data holds a lone surrogate, which UTF-8 cannot carry") from None
    except ValueError:
        raise DecodeError("the event's data holds NaN, Infinity or a cycle, which JSON cannot carry") from None
    except TypeError as error:
        # The standard library names the type only: "Object of type set is not JSON serializable"
        raise DecodeError(f"the event's data cannot be written as JSON: {error}") from None
