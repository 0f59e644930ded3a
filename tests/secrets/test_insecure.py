"""`bridge check` warns of every insecure setting; `--strict` refuses it. Walks the table of rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.check.configuration import check
from bridge.config.insecure import INSECURE_SETTINGS, LITERAL_SECRET
from bridge.config.model.bridge import BridgeConfig
from tests.kit.processes import bridge

LONG = "x" * 32
KAFKA = {"type": "kafka", "bootstrap_servers": "kafka.internal:9092"}
SASL = {"mechanism": "PLAIN", "username": "u", "password": "${SECRET}"}
BUS = "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName={};SharedAccessKey=a2V5;{}"
EMULATOR = (
    "Endpoint=sb://{};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=x;UseDevelopmentEmulator=true;"
)
TLS = {"certificate": "tls.pem"}
OIDC = {"issuer": "https://login.example", "audience": "bridge"}
MUTUAL = TLS | {"client_ca": "ca.pem"}

EXAMPLES: dict[tuple[str, str], tuple[str, list[Any], list[Any]]] = {
    ("sasl_without_tls", "KafkaBrokerConfig"): (
        "brokers",
        [KAFKA | {"sasl": SASL}, KAFKA | {"sasl": SASL, "bootstrap_servers": "localhost:9092"}],
        [KAFKA | {"sasl": SASL, "tls": {}}],
    ),
    ("kafka_without_tls", "KafkaBrokerConfig"): (
        "brokers",
        [KAFKA, KAFKA | {"bootstrap_servers": ["localhost:9092", "10.0.0.1:9092"]}],
        [KAFKA | {"tls": {}}, KAFKA | {"bootstrap_servers": "localhost:9092,127.0.0.1:1,[::1]:2"}],
    ),
    ("hostname_unchecked", "KafkaBrokerConfig"): (
        "brokers",
        [KAFKA | {"tls": {"check_hostname": False}}],
        [KAFKA | {"tls": {"check_hostname": True}}],
    ),
    ("emulator_without_tls", "ServiceBusBrokerConfig"): (
        "brokers",
        [{"type": "servicebus", "connection_string": EMULATOR.format("bus.internal")}],
        [{"type": "servicebus", "connection_string": EMULATOR.format("localhost")}],
    ),
    ("key_with_all_rights", "ServiceBusBrokerConfig"): (
        "brokers",
        [
            {"type": "servicebus", "connection_string": BUS.format("RootManageSharedAccessKey", "") + "${SECRET}"},
            {"type": "servicebus", "namespace": "n", "sas": {"name": "RootManageSharedAccessKey", "key": "${SECRET}"}},
        ],
        [
            {"type": "servicebus", "namespace": "n"},
            {"type": "servicebus", "namespace": "n", "sas": {"name": "bridge", "key": "${SECRET}"}},
        ],
    ),
    ("credentials_over_http", "RegistryConfig"): (
        "registries",
        [
            {"url": "http://registry:8081", "username": "u", "password": "${SECRET}"},
            {"url": "http://localhost:8081", "token": "${SECRET}"},
        ],
        [{"url": "https://registry:8081", "username": "u", "password": "${SECRET}"}],
    ),
    ("registry_over_http", "RegistryConfig"): (
        "registries",
        [{"url": "http://registry:8081"}],
        [{"url": "http://localhost:8081"}, {"url": "https://registry"}],
    ),
    ("token_over_http", "SchedulerEngineConfig"): (
        "engines",
        [
            {"type": "scheduler", "endpoint": "http://localhost:1", "token": "${SECRET}"},
            {"type": "scheduler", "credential": "cli"},
        ],
        [{"type": "scheduler", "endpoint": "https://engine", "token": "${SECRET}"}],
    ),
    ("engine_over_http", "SchedulerEngineConfig"): (
        "engines",
        [{"type": "scheduler", "endpoint": "http://engine:8080"}],
        [
            {"type": "scheduler", "endpoint": "http://localhost:8080"},
            {"type": "scheduler", "endpoint": "https://engine"},
        ],
    ),
    ("short_token", "SchedulerEngineConfig"): (
        "engines",
        [{"type": "scheduler", "endpoint": "https://engine", "token": "${SHORT}"}],
        [{"type": "scheduler", "endpoint": "https://engine", "token": "${SECRET}"}],
    ),
    ("short_token", "EmbeddedEngineConfig"): (
        "engines",
        [{"type": "embedded", "listen": "127.0.0.1:1", "token": "${SHORT}"}],
        [{"type": "embedded", "listen": "127.0.0.1:1", "token": "${SECRET}"}],
    ),
    ("engine_port_open", "EmbeddedEngineConfig"): (
        "engines",
        [{"type": "embedded", "listen": "127.0.0.1:1"}, {"type": "embedded", "listen": "127.0.0.1:1", "tls": TLS}],
        [{"type": "embedded", "listen": "127.0.0.1:1", "tls": MUTUAL}],
    ),
    ("engine_port_without_tls", "EmbeddedEngineConfig"): (
        "engines",
        [{"type": "embedded", "listen": "0.0.0.0:1", "token": "${SECRET}", "behind_tls_proxy": True}],
        [{"type": "embedded", "listen": "0.0.0.0:1", "token": "${SECRET}", "tls": TLS}],
    ),
    ("ops_port_without_tls", "HttpConfig"): (
        "ops",
        [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "10.0.0.1"}],
        [{"host": "::1"}, {"host": "localhost"}],
    ),
    ("ops_port_open", "HttpConfig"): (
        "ops",
        [{"host": "0.0.0.0", "tls": TLS}],
        [{"host": "0.0.0.0", "tls": MUTUAL}, {"host": "127.0.0.1", "tls": TLS}],
    ),
    ("tokens_without_tls", "HttpConfig"): (
        "ops",
        [{"host": "0.0.0.0", "access": {"tokens": "tokens"}}, {"host": "::", "access": {"oidc": OIDC}}],
        [
            {"host": "0.0.0.0"},
            {"access": {"tokens": "tokens"}},
            {"host": "0.0.0.0", "tls": TLS, "access": {"oidc": OIDC}},
        ],
    ),
    ("webhook_without_tls", "WebhookBrokerConfig"): (
        "brokers",
        [{"type": "webhook", "url": "http://ops.example/bridge"}],
        [{"type": "webhook", "url": "https://ops.example/"}, {"type": "webhook", "url": "http://localhost:8080/x"}],
    ),
    ("identity_provider_without_tls", "OidcConfig"): (
        "ops",
        [
            {"access": {"oidc": OIDC | {"issuer": "http://login.example"}}},
            {"access": {"oidc": OIDC | {"jwks_url": "http://login.example/keys"}}},
        ],
        [
            {"access": {"oidc": OIDC}},
            {"access": {"oidc": OIDC | {"issuer": "http://login.example", "jwks_url": "https://login.example/keys"}}},
            {"access": {"oidc": OIDC | {"issuer": "http://127.0.0.1:9000"}}},
        ],
    ),
}
"""Section, entries with a warning, and similar entries without one, by rule and model."""


def write(directory: Path, section: str, entry: dict[str, Any]) -> Path:
    config: dict[str, Any] = {
        "engines": {"default": {"type": "embedded"}},
        "brokers": {"b": {"type": "local"}},
        "sources": {"s": {"broker": "b", "topics": ["t"], "no_match": "ignore"}},
        "routes": [{"name": "r", "from": "s", "ignore": {}}],
    }
    if section == "ops":
        config["ops"] = {"http": entry}
    else:
        config.setdefault(section, {})["x"] = entry
    file = directory / "bridge.yaml"
    file.write_text(json.dumps(config))
    return file


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", LONG)
    monkeypatch.setenv("SHORT", LONG[1:])


def test_every_rule_has_an_example() -> None:
    assert {(rule.name, rule.kind.__name__) for rule in INSECURE_SETTINGS} == set(EXAMPLES)


@pytest.mark.parametrize("rule", INSECURE_SETTINGS, ids=lambda rule: f"{rule.name}-{rule.kind.__name__}")
def test_a_rule_warns(tmp_path: Path, rule: Any) -> None:
    """The warning is at the place of the setting, and not at similar settings."""
    section, wrong, right = EXAMPLES[rule.name, rule.kind.__name__]
    for entry in wrong:
        report = check([write(tmp_path, section, entry)])
        assert not report.errors, report.problems
        (found,) = [problem for problem in report.problems if problem.what == rule.what]
        assert found.severity == "warning"
        assert found.path.startswith("ops.http" if section == "ops" else f"{section}.x")
    for entry in right:
        report = check([write(tmp_path, section, entry)])
        assert not report.errors, report.problems
        assert [problem for problem in report.problems if problem.what == rule.what] == []


@pytest.mark.parametrize("example", [next(iter(wrong)) for _, wrong, _ in EXAMPLES.values()][:3])
def test_strict_refuses(tmp_path: Path, example: dict[str, Any]) -> None:
    file = write(tmp_path, "brokers", example)
    assert "warning: " in bridge("check", file, cwd=tmp_path)
    bridge("check", "--strict", file, cwd=tmp_path, expect=1)


def test_a_secret_in_the_file(tmp_path: Path) -> None:
    """Secrets are found in every model, except secrets from a variable."""
    entry = {"type": "embedded", "listen": "127.0.0.1:1", "token": LONG}
    (found,) = check([write(tmp_path, "engines", entry)]).problems
    assert (found.path, found.what, found.severity) == ("engines.x.token", LITERAL_SECRET, "warning")
    assert check([write(tmp_path, "engines", entry | {"token": "${SECRET}"})]).problems == ()


def test_the_defaults_are_secure(tmp_path: Path) -> None:
    assert check([write(tmp_path, "ops", {})]).problems == ()
    assert BridgeConfig.model_fields["ops"].default.http.host == "127.0.0.1"
