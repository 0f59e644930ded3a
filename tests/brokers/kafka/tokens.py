"""Example of a user's token provider: an unsigned JWT, which the test broker accepts."""

from __future__ import annotations

import base64
import json
import time


def unsigned() -> tuple[str, float]:
    """Return a token for the principal `bridge`, and its expiry."""
    now = time.time()
    parts = [{"alg": "none"}, {"sub": "bridge", "iat": int(now), "exp": int(now) + 3600}]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return text + ".", now + 3600


def failing() -> tuple[str, float]:
    raise LookupError("no identity here")
