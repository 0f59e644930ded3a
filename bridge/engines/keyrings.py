"""Keys for payloads at rest, read from the files, vaults and functions that a configuration names."""

from __future__ import annotations

import base64
import binascii
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.config.model.encryption import EncryptionConfig, EncryptionKeyConfig
from bridge.core.errors import EngineMisconfigured
from bridge.encryption import Key, KeyProblem, KeyProvider, Keyring
from bridge.system.files import read_file
from bridge.system.package import install_extra

MAX_FILE = 1024

Keys = Callable[[], Keyring | None]
"""Function that reads an engine's keys; None without encryption. Raises: EngineMisconfigured, EngineUnavailable."""


def no_keys() -> Keyring | None:
    return None


def load(config: EncryptionConfig | None, engine: str, modules: Path) -> Keyring | None:
    """Read the keys of an engine. Paths of files are already resolved.

    modules: directory that is searched first for a provider.
    Raises: EngineMisconfigured when a key cannot be read or used, EngineUnavailable when a vault does not answer.
    """
    if config is None:
        return None
    try:
        keys = _provided(config.provider, modules) if config.provider is not None else _configured(config)
        return Keyring(keys, active=config.active, accepts_plain=config.accept_plain)
    except KeyProblem as problem:
        raise EngineMisconfigured(f"engine {engine!r}: encryption: {problem}") from None


def _configured(config: EncryptionConfig) -> list[Key]:
    """Read the keys from files and vaults. Raises: KeyProblem, EngineUnavailable."""
    stored = [key for key in config.keys if key.vault is not None]
    values = _from_vault(config, stored) if stored else {}
    return [
        from_file(key.id, Path(key.file)) if key.file is not None else _parsed(key.id, values[key.id], key.vault or "")
        for key in config.keys
    ]


def from_file(id_: str, file: Path) -> Key:
    """Key of a file. Raises: KeyProblem."""
    try:
        return _parsed(id_, read_file(file, MAX_FILE), str(file))
    except OSError as error:
        raise KeyProblem(f"key {id_!r}: {file}: {error.strerror}") from None


def _from_vault(config: EncryptionConfig, keys: Sequence[EncryptionKeyConfig]) -> dict[str, bytes]:
    """Read the secrets of these keys, by key id. Raises: KeyProblem, EngineUnavailable."""
    from bridge.engines import azure_access  # on demand, see there

    try:
        return azure_access.read_secrets(config, keys)
    except ModuleNotFoundError as error:
        raise KeyProblem(
            f"the package {error.name} is missing; install the extra: {install_extra('keyvault')}"
        ) from None
    except azure_access.VaultRefused as error:
        raise KeyProblem(str(error)) from None
    except ValueError as error:
        raise KeyProblem(f"credential {config.credential}: {error}") from None


def _parsed(id_: str, text: bytes, place: str) -> Key:
    """Parse a key in base64. place: its file or vault, for the error. Raises: KeyProblem."""
    try:
        return Key(id_, base64.b64decode(text.strip(), validate=True))
    except binascii.Error:
        raise KeyProblem(f"key {id_!r}: {place}: is not base64") from None


def _provided(reference: str, modules: Path) -> list[Key]:
    """Call the provider function for its keys. Raises: KeyProblem."""
    from bridge.engines.workflows import ImportFailed, functions

    try:
        provider: KeyProvider = functions(modules)(reference)
        found = list(provider())
    except ImportFailed as error:
        raise KeyProblem(str(error)) from None
    except KeyProblem:
        raise
    except Exception as error:
        # The exception's text might quote a key
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise KeyProblem(f"{reference}: {type(error).__name__} ({last.filename}:{last.lineno})") from None
    for each in found:
        if not isinstance(each, Key):
            raise KeyProblem(f"{reference}: returned a {type(each).__name__}, not bridge.encryption.Key")
    return found
