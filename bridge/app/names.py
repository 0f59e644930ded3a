"""Names that a person gives, looked up among what is configured."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def require(kind: str, name: str, known: Collection[str], remedy: str = "") -> None:
    """Raises: LookupError with what is known, when `name` is not."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
    raise LookupError(f"there is no {kind} {name!r}{meant}{'; ' + remedy if remedy else ''}")
