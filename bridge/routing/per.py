"""Values of `limits.per`, which distinguish senders.

They are kept and stored as digests, because they come from messages.
"""

from __future__ import annotations

from hashlib import blake2b

from bridge.core.errors import MessageError
from bridge.routing.cel.scope import ExpressionScope
from bridge.routing.cel.template import Template

SHARED = ""
"""Value of messages without one: the template fails, returns an empty text, or cannot be evaluated."""

TAG = "bridge.per"
"""Tag of an instance that a route with `limits.per.running` starts.

Its value is the digest of the message's value, by which instances are counted.
"""

_DIGEST_BYTES = 12


def digest(text: str) -> str:
    """Digest of a value of any length, in 24 characters; SHARED for an empty value."""
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest() if text else SHARED


def value_of(template: Template, scope: ExpressionScope) -> str:
    """Digest of a message's value. A failing template never fails the message; its value is SHARED."""
    try:
        return digest(template.render(scope))
    except MessageError:
        return SHARED
