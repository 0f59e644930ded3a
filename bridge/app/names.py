"""Look-up of names given by a person among the configured ones."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC


def require(kind: str, name: str, known: Collection[str], remedy: str = "") -> None:
    """Check that a name is known. Raises: LookupError with the known names or a similar one."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
    raise LookupError(f"there is no {kind} {name!r}{meant}{'; ' + remedy if remedy else ''}")


def near_topic(config: BridgeConfig, broker: str, topic: str) -> str | None:
    """Topic or queue of the configuration that was probably meant; None for a known one, and if none is similar."""
    known: set[str] = set()
    for source in config.sources.values():
        if source.broker == broker:
            if source.kafka is not None and source.kafka.pattern is not None:
                return None
            names = {*source.origins, source.entrance or ""}
            letters = source.dead_letter or DEAD_LETTER_TOPIC
            known |= names | {letters.replace("{topic}", name) for name in names}
    known |= {target.address for target in config.targets.values() if target.broker == broker}
    if topic in known:
        return None
    return next(iter(difflib.get_close_matches(topic, known - {""}, n=1, cutoff=0.8)), None)
