"""Keys from a Key Vault: Microsoft's own clients against a test server, over TLS."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.config.model.encryption import EncryptionConfig
from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.encryption import Keyring
from bridge.engines import keyrings
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions
from tests.engines.vault import CLIENT_SECRET, TOKEN, VAULT, VaultServer, serving
from tests.kit.protocol_client import start, state

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VaultServer]:
    with serving(tmp_path / "tls") as server:
        server.secrets |= {"engine/v1": OLD, "engine/v2": NEW}
        for name in ("https_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def config(*versions: str, name: str = "engine") -> EncryptionConfig:
    keys = [{"id": version, "vault": f"https://{VAULT}/secrets/{name}/{version}"} for version in versions]
    return EncryptionConfig.model_validate({"keys": keys, "credential": "environment"})


def load(config: EncryptionConfig) -> Keyring:
    found = keyrings.load(config, "default", Path())
    assert found is not None
    return found


def test_keys_are_secrets_of_a_vault(vault: VaultServer, tmp_path: Path) -> None:
    path = tmp_path / "engine" / "engine.db"
    for versions in (("v1",), ("v2", "v1")):
        ring = load(config(*versions))
        assert list(ring.ids.values()) == list(versions)
        database = Database(path, DatabaseOptions(keyring=ring))
        database.start()
        start(database, "work", versions[0], "an input")
        assert state(database, "v1").input.value == '"an input"'
        database.stop()
    assert f"{VAULT}/secrets/engine/v2" in vault.requests


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        (403, EngineMisconfigured, f"key 'v1': https://{VAULT}/secrets/engine/v1: the vault answers 403 Forbidden"),
        (503, EngineUnavailable, "the vault answers 503"),
        (429, EngineUnavailable, "the vault answers 429"),
    ],
)
def test_a_vault_that_refuses(vault: VaultServer, status: int, error: type[Exception], what: str) -> None:
    vault.answer = status
    with pytest.raises(error, match=what) as raised:
        load(config("v1"))
    assert OLD not in str(raised.value)


def test_a_secret_that_is_not_there(vault: VaultServer) -> None:
    with pytest.raises(EngineMisconfigured, match=r"key 'v9': .*/secrets/engine/v9: the vault answers 404"):
        load(config("v9"))


def test_a_secret_that_is_no_key(vault: VaultServer) -> None:
    vault.secrets |= {"engine/text": "no key!", "engine/short": "AAAA"}
    for version, what in (("text", "is not base64"), ("short", "has 3 bytes, not 32")):
        with pytest.raises(EngineMisconfigured, match=what) as raised:
            load(config(version))
        assert "no key!" not in str(raised.value)


def test_an_identity_that_is_refused(vault: VaultServer) -> None:
    vault.accepts_client = False
    with pytest.raises(EngineMisconfigured, match="no token, or it is refused") as raised:
        load(config("v1"))
    for secret in (CLIENT_SECRET, TOKEN):
        assert secret not in str(raised.value)


def test_a_vault_that_is_away(vault: VaultServer) -> None:
    vault.close()
    with pytest.raises((EngineUnavailable, EngineMisconfigured), match="key 'v1'"):
        load(config("v1"))


def test_a_vault_with_the_certificate_of_another_authority(
    vault: VaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "other") as other:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.authority.file))
        with pytest.raises((EngineUnavailable, EngineMisconfigured), match="key 'v1'"):
            load(config("v1"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.keyvault.secrets", None)
    with pytest.raises(EngineMisconfigured, match="pip install 'azure-keyvault-secrets"):
        load(config("v1"))


@pytest.mark.parametrize(
    "key",
    [
        {"id": "a", "vault": f"https://{VAULT}/secrets/engine"},
        {"id": "a", "vault": f"http://{VAULT}/secrets/engine/v1"},
        {"id": "a", "vault": f"https://user:password@{VAULT}/secrets/engine/v1"},
        {"id": "a", "vault": f"https://{VAULT}/secrets/engine/v1", "file": "x"},
        {"id": "a"},
    ],
)
def test_an_address_that_is_refused(key: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"vault|file"):
        EncryptionConfig.model_validate({"keys": [key]})
