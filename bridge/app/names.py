"""Look-up of names given by a person among the configured ones."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def require(kind: str, name: str, known: Collection[str], remedy: str = "") -> None:
    """Check that a name is known. Raises: LookupError with the known names or a similar one."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
    raise LookupError(f"there is no {kind} {name!r}{meant}{'; ' + remedy if remedy else ''}")
