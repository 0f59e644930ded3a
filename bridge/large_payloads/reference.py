"""Reference to a large payload: the text that stands in a message in place of the payload. Pure.

    bridge-payload:v1:NAME:KEY:SIZE\\nHEAD

NAME names the file (32 hexadecimal digits). KEY encrypts this file alone (AES-256, base64url). SIZE is the size of the
payload in bytes. HEAD is the beginning of the payload: the engine reads origins of messages there, without the file.
Payloads are JSON texts, which never begin like a reference.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

MARK = "bridge-payload:"
"""Beginning of a reference of any version."""

HEAD_BYTES = 2048
"""Largest size of the head."""

_MARK_BYTES = MARK.encode()
_REFERENCE = re.compile(rf"{MARK}v1:([0-9a-f]{{32}}):([A-Za-z0-9_=-]{{44}}):([0-9]{{1,15}})\n")
_NAMES = re.compile(rb"bridge-payload:v1:([0-9a-f]{32}):")


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference to a payload in a file.

    key: of this file alone; 32 bytes.
    size: of the payload in bytes.
    head: beginning of the payload.
    """

    name: str
    key: bytes = field(repr=False)
    size: int
    head: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{MARK}v1:{self.name}:{urlsafe_b64encode(self.key).decode()}:{self.size}\n{self.head}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reference from its text. Raises: ValueError."""
        found = _REFERENCE.match(text)
        if found is None:
            raise ValueError("not a reference that this version of the bridge reads")
        return cls(found[1], urlsafe_b64decode(found[2]), int(found[3]), text[found.end() :])


def is_reference(text: str) -> bool:
    """True for a reference of any version."""
    return text.startswith(MARK)


def payload_head(text: str) -> str:
    """Beginning of a payload, for readers that do not need its end: the head of a reference, or the payload itself."""
    if not text.startswith(MARK):
        return text
    return text.partition("\n")[2]


def names_in(message: bytes) -> Iterator[str]:
    """Names in an encoded message: every name that it refers to, and maybe others."""
    if _MARK_BYTES not in message:
        return iter(())
    return (found[1].decode() for found in _NAMES.finditer(message))
