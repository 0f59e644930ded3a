"""Values that tell senders apart, of `limits.per`. Kept and stored as digests: they come from messages."""

from __future__ import annotations

from hashlib import blake2b

from bridge.errors import MessageError
from bridge.routing.scope import Scope
from bridge.routing.template import Template

SHARED = ""
"""Stands for the value of messages that have none: the template fails, gives nothing, or cannot be evaluated."""

TAG = "bridge.per"
"""Tag of an instance that a route with `limits.per.running` starts: the digest of its value, found again by counts."""

_DIGEST_BYTES = 12


def digest(text: str) -> str:
    """A value of any length in 24 characters; SHARED for an empty one."""
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest() if text else SHARED


def value_of(template: Template, scope: Scope) -> str:
    """The digest of a message's value. A template that fails never fails the message: its value is SHARED."""
    try:
        return digest(template.render(scope))
    except MessageError:
        return SHARED
