"""Claim checks of sources and targets, built from a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.config.model.claims import TargetFilesConfig
from bridge.config.source import Loaded
from bridge.core.errors import ConfigError
from bridge.system.package import install_extra

if TYPE_CHECKING:
    from bridge.claims.publish import PublishedClaims
    from bridge.claims.source import ClaimChecks

# Imported where there are claim checks: the client that fetches takes long to import


def build_published_claims(loaded: Loaded, name: str) -> PublishedClaims | None:
    """Claim checks of a target; None where it has none. Raises: ConfigError."""
    config = loaded.config.targets[name].claim_check
    if config is None:
        return None
    from bridge.claims.publish import PublishedClaims, files_store

    if isinstance(config.store, TargetFilesConfig):
        path = ("targets", name, "claim_check", "store", "directory")
        put = files_store(loaded.resolve(path, config.store.directory))
    else:
        try:
            from bridge.engines.blob_payloads import claim_store

            put = claim_store(config.store)
        except (ImportError, ValueError) as error:
            what = install_extra("blob") if isinstance(error, ImportError) else "the account cannot be used"
            raise ConfigError([loaded.locate(("targets", name, "claim_check", "store"), what)]) from None
    return PublishedClaims(name, put, config.above, config.attribute, config.header)


def build_claims(loaded: Loaded, source: str) -> ClaimChecks | None:
    """Claim checks of a source; None where it has none. Raises: ConfigError."""
    config = loaded.config.sources[source]
    if config.claim_check is None:
        return None
    from bridge.claims.source import ClaimChecks

    try:
        return ClaimChecks(config.claim_check, config.limits.max_payload)
    except ValueError as error:
        raise ConfigError([loaded.locate(("sources", source, "claim_check", "allow"), str(error))]) from None
