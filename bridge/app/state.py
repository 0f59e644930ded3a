"""Directories of a configuration: its state directory, and the copies of the audit."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from bridge.app.connection import chosen
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.source import Loaded
from bridge.ops.trail import AuditTrail


def state_directory(loaded: Loaded) -> Path:
    """Directory of the control sockets, and of the audit of changes on no embedded engine."""
    return loaded.resolve(("ops", "state_dir"), loaded.config.ops.state_dir)


def trail(loaded: Loaded, engine: str | None = None) -> AuditTrail:
    """Audit copy for changes on an engine: beside an embedded engine, else in the state directory.

    engine: as in `chosen`; `""` for a change on no engine. An unknown engine uses the state directory.
    """
    bounds = loaded.config.ops.audit
    with suppress(LookupError):
        config = loaded.config.engines[chosen(loaded, engine)]
        if isinstance(config, EmbeddedEngineConfig):
            return AuditTrail(loaded.base / config.path, bounds.max_bytes, bounds.files)
    return AuditTrail(state_directory(loaded) / "audit", bounds.max_bytes, bounds.files, own=True)


def trails(loaded: Loaded) -> list[AuditTrail]:
    """All audit copies of a configuration on this machine."""
    found = [trail(loaded, name) for name in ("", *loaded.config.engines)]
    return list({one.directory.resolve(): one for one in found}.values())


def fingerprint(loaded: Loaded, engine: str) -> str:
    """Identity of an engine: equal for two configurations of the same engine."""
    config = loaded.config.engines[engine]
    if isinstance(config, EmbeddedEngineConfig):
        where = f"embedded {(loaded.base / config.path).resolve()}"
    else:
        where = f"scheduler {config.endpoint} {config.task_hub}"
    return hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()[:32]
