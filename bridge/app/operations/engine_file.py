"""Maintenance of the file of an embedded engine, without the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from bridge.app.composition import read_keyring
from bridge.app.connection import chosen
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.source import Loaded
from bridge.core.errors import EngineMisconfigured
from bridge.encryption import Keyring
from bridge.engines.embedded.address import FILE
from bridge.ops import audit
from bridge.ops.audit import AuditedChange
from bridge.ops.trail import AuditTrail
from bridge.sqlite_engine.maintenance import backups, reencryption, upkeep
from bridge.system import private

TargetRefused = backups.BackupRefused
backup = backups.backup
restore = backups.restore
check = upkeep.check
compact = upkeep.compact
export = upkeep.export
count_values = reencryption.count_values
reencrypt = reencryption.reencrypt
PLAIN = reencryption.PLAIN


def configured(loaded: Loaded, name: str | None = None) -> Path:
    """File of a configured engine. None: `default`, or the only one.

    Raises: LookupError for an unknown name, EngineMisconfigured when that engine has no file.
    """
    name = chosen(loaded, name)
    config = loaded.config.engines[name]
    if not isinstance(config, EmbeddedEngineConfig):
        raise EngineMisconfigured(f"engine {name!r} is of type {config.type}; only embedded engines have a file")
    return loaded.base / config.path / FILE


def keyring(loaded: Loaded, name: str | None = None) -> Keyring | None:
    """Encryption keys of a configured engine; None where its payloads are not encrypted.

    Raises: LookupError for an unknown name, EngineMisconfigured when a key cannot be read.
    """
    return read_keyring(loaded, chosen(loaded, name))


def named_file(path: Path) -> Path:
    """Return a file named by a person. Raises: EngineMisconfigured for a directory."""
    if path.is_dir():
        held = sorted(path.glob("*.db"))
        meant = f", like {held[0]}" if held else ""
        raise EngineMisconfigured(f"{path} is a directory; use the engine's file in it{meant}")
    return path


def audited(
    action: str, file: Path, filter_: Mapping[str, str], reason: str | None
) -> AbstractContextManager[AuditedChange]:
    """Audit a change to an engine's file. The line is kept beside the file."""
    place = AuditTrail(file.parent) if file.parent.is_dir() else None
    return audit.audited(place, AuditedChange(audit.user(), action, str(file), filter_, reason))


@contextmanager
def replacing(output: Path) -> Iterator[TextIO]:
    """Text file, readable only for its owner, that appears under its name when it is complete. Raises: OSError."""
    with private.replacing(output) as binary:
        out = TextIOWrapper(binary, encoding="utf-8")
        yield out
        out.flush()
        out.detach()
