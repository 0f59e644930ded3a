"""Keys for payloads at rest, from the files and functions that a configuration names."""

from __future__ import annotations

import base64
import binascii
import traceback
from collections.abc import Callable
from pathlib import Path

from bridge.config.encryption import EncryptionConfig, EncryptionKeyConfig
from bridge.encryption import Key, KeyProblem, Keyring
from bridge.engines.modules import ImportFailed
from bridge.engines.registry import functions
from bridge.errors import EngineMisconfigured
from bridge.files import read_file

MAX_FILE = 1024

Keys = Callable[[], Keyring | None]
"""Reads the keys of an engine, None where it has no encryption. Raises: EngineMisconfigured, EngineUnavailable."""


def no_keys() -> Keyring | None:
    return None


def load(config: EncryptionConfig | None, engine: str, modules: Path) -> Keyring | None:
    """The keys of an engine. modules: directory in which a provider is looked up first.

    Paths of files are resolved already. Raises: EngineMisconfigured when a key cannot be read or used.
    """
    if config is None:
        return None
    try:
        keys = _provided(config.provider, modules) if config.provider is not None else [*map(_read, config.keys)]
        return Keyring(keys, active=config.active)
    except KeyProblem as problem:
        raise EngineMisconfigured(f"engine {engine!r}: encryption: {problem}") from None


def _read(config: EncryptionKeyConfig) -> Key:
    """Raises: KeyProblem."""
    try:
        text = read_file(Path(config.file), MAX_FILE)
    except OSError as error:
        raise KeyProblem(f"key {config.id!r}: {config.file}: {error.strerror}") from None
    return parse(config.id, text, config.file)


def parse(id_: str, text: bytes, place: str) -> Key:
    """The key in base64. place: where it was found. Raises: KeyProblem."""
    try:
        return Key(id_, base64.b64decode(text.strip(), validate=True))
    except binascii.Error:
        raise KeyProblem(f"key {id_!r}: {place}: is not base64") from None


def _provided(reference: str, modules: Path) -> list[Key]:
    """Raises: KeyProblem."""
    try:
        found = list(functions(modules)(reference)())
    except ImportFailed as error:
        raise KeyProblem(str(error)) from None
    except KeyProblem:
        raise
    except Exception as error:
        # Its text might quote a key
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise KeyProblem(f"{reference}: {type(error).__name__} ({last.filename}:{last.lineno})") from None
    for each in found:
        if not isinstance(each, Key):
            raise KeyProblem(f"{reference}: returned a {type(each).__name__}, not bridge.encryption.Key")
    return found
