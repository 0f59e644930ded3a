"""Marks in secrets and in messages, and the places where they must not appear."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

SECRET = "s3cr3t-" + "Zq7Xw9Kp" * 4
"""Value of every credential; long enough for a token."""

PAYLOAD, KEY, HEADER = "PAYLOAD-DE89370400440532013000", "KEY-1f8a77aa2bd9", "HEADER-94ab6620c1f3"


def forms(mark: str) -> Iterator[str]:
    """Forms of a mark that logs might contain: plain, base64 at every alignment, hexadecimal, quoted."""
    yield mark
    yield quote(mark, safe="")
    yield urllib.parse.quote_plus(mark)
    raw = mark.encode()
    yield raw.hex()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw + b"\0" * 3).decode()
        yield encoded[4 : 4 + (len(raw) // 3 - 1) * 4]


def leaks(text: str, *marks: str) -> list[str]:
    """Return every place of `text` that contains a mark, with the surrounding text."""
    found = []
    for mark in marks:
        for form in set(forms(mark)):
            at = text.find(form)
            if at >= 0:
                line = text.count("\n", 0, at) + 1
                found.append(f"{mark[:10]}… in line {line}: {text[max(0, at - 300) : at + len(form) + 60]!r}")
    return found


def body(kind: str, **more: Any) -> dict[str, Any]:
    """Create a payload with the mark; `kind` selects the rule."""
    return {"kind": kind, "id": f"id-{kind}", "private": PAYLOAD, **more}


def line(body: Any, number: int, **headers: str) -> str:
    """Create a line for `bridge publish --jsonl`, with the marks in key and headers."""
    return json.dumps({"body": body, "key": f"{KEY}-{number % 3}", "headers": {"x-private": HEADER, **headers}})
