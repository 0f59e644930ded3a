"""Table of settings that are valid but insecure, for the warnings of `bridge check`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from bridge.config.model.access import AccessConfig, OidcConfig
from bridge.config.model.bridge import BridgeConfig, HttpConfig
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.config.model.registries import RegistryConfig
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.config.model.webhook import WebhookBrokerConfig
from bridge.config.model_fields import models_in
from bridge.config.yaml.node import Node, ScalarNode, find
from bridge.core.errors import Locate, Problem
from bridge.core.problems.codes import coded
from bridge.system.addresses import is_loopback

SHORTEST_TOKEN = 32
"""Minimum number of characters of a token that is not reported as short: 128 bits in hexadecimal digits."""

_SHORT_TOKEN = (
    f"a token of less than {SHORTEST_TOKEN} characters can be guessed; create one with `openssl rand -hex 32`"
)
_CLEAR_PORT = "a client that bypasses the proxy can read the token and payloads; listen on loopback, or set `tls`"

_ALL_RIGHTS = "RootManageSharedAccessKey"


@dataclass(frozen=True, slots=True)
class InsecureSetting:
    """One insecure setting.

    code: code of the warning.
    name: stable identifier of the rule.
    kind: model that has the setting.
    field: path of the setting below the model, for the place of the warning.
    applies: True for a model with the insecure value.
    what: the danger and the remedy.
    """

    code: str
    name: str
    kind: type[BaseModel]
    field: tuple[str, ...]
    applies: Callable[[Any], bool]
    what: str


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value is not None else ""


def _is_short(token: SecretStr | None) -> bool:
    return token is not None and len(_secret(token)) < SHORTEST_TOKEN


def _is_plain(url: str) -> bool:
    return url.lower().startswith(("http://", "grpc://"))


def _is_far_plain(url: str) -> bool:
    return _is_plain(url) and not is_loopback(urlsplit(url).hostname or "")


def _is_far(url: str) -> bool:
    return not is_loopback(urlsplit(url).hostname or "")


def _has_far_host(config: KafkaBrokerConfig) -> bool:
    return any(not is_loopback(host.rpartition(":")[0]) for host in config.hosts)


def _parts(config: ServiceBusBrokerConfig) -> dict[str, str]:
    """Parts of the connection string. Names are in lower case."""
    pairs = (part.partition("=") for part in _secret(config.connection_string).split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _is_emulator(config: ServiceBusBrokerConfig) -> bool:
    return _parts(config).get("usedevelopmentemulator", "").lower() == "true"


def _is_far_emulator(config: ServiceBusBrokerConfig) -> bool:
    return _is_emulator(config) and _is_far(config.endpoint or _parts(config).get("endpoint", ""))


def _has_all_rights(config: ServiceBusBrokerConfig) -> bool:
    name = _parts(config).get("sharedaccesskeyname") or (config.sas.name if config.sas is not None else None)
    return name == _ALL_RIGHTS and not _is_emulator(config)


def _sends_token(config: SchedulerEngineConfig) -> bool:
    return config.token is not None or config.credential not in ("auto", "none")


def _is_open_port(config: EmbeddedEngineConfig) -> bool:
    return config.listen is not None and config.token is None and (config.tls is None or config.tls.client_ca is None)


def _is_clear_port(config: EmbeddedEngineConfig) -> bool:
    return config.listen is not None and config.tls is None and not is_loopback(config.listen.rpartition(":")[0])


def port_dangers(listen: str, token: str | None, *, encrypted: bool) -> list[str]:
    """Dangers of an engine's port that no configuration describes."""
    short = token is not None and len(token) < SHORTEST_TOKEN
    clear = not encrypted and not is_loopback(listen.rpartition(":")[0])
    return [text for text, found in ((_SHORT_TOKEN, short), (_CLEAR_PORT, clear)) if found]


def _is_far_http(config: HttpConfig) -> bool:
    return not is_loopback(config.host)


INSECURE_SETTINGS: tuple[InsecureSetting, ...] = (
    InsecureSetting(
        "S001",
        "sasl_without_tls",
        KafkaBrokerConfig,
        ("sasl",),
        lambda broker: broker.sasl is not None and broker.tls is None,
        "credentials and messages are sent unencrypted; set `tls`",
    ),
    InsecureSetting(
        "S002",
        "kafka_without_tls",
        KafkaBrokerConfig,
        ("bootstrap_servers",),
        lambda broker: broker.tls is None and broker.sasl is None and _has_far_host(broker),
        "messages are sent unencrypted, and the cluster does not ask for credentials; set `tls` and `sasl`",
    ),
    InsecureSetting(
        "S003",
        "hostname_unchecked",
        KafkaBrokerConfig,
        ("tls", "check_hostname"),
        lambda broker: broker.tls is not None and not broker.tls.check_hostname,
        "any holder of a certificate of these authorities can pose as the cluster; use "
        "certificates with the names of its nodes",
    ),
    InsecureSetting(
        "S004",
        "emulator_without_tls",
        ServiceBusBrokerConfig,
        ("connection_string",),
        _is_far_emulator,
        "an emulator on another machine is reached without TLS; use a namespace, or run the emulator here",
    ),
    InsecureSetting(
        "S005",
        "key_with_all_rights",
        ServiceBusBrokerConfig,
        (),
        _has_all_rights,
        f"`{_ALL_RIGHTS}` may manage the whole namespace; use Entra ID, or a policy with Listen and Send",
    ),
    InsecureSetting(
        "S006",
        "credentials_over_http",
        RegistryConfig,
        ("url",),
        lambda registry: _is_plain(registry.url) and (registry.password is not None or registry.token is not None),
        "the registry's credentials are sent unencrypted; use https",
    ),
    InsecureSetting(
        "S007",
        "registry_over_http",
        RegistryConfig,
        ("url",),
        lambda registry: (
            _is_plain(registry.url) and registry.password is None and registry.token is None and _is_far(registry.url)
        ),
        "an attacker in the network can change schemas, and with them the meaning of messages; use https",
    ),
    InsecureSetting(
        "S008",
        "token_over_http",
        SchedulerEngineConfig,
        ("endpoint",),
        lambda engine: _is_plain(engine.endpoint) and _sends_token(engine),
        "the token is sent unencrypted; use https",
    ),
    InsecureSetting(
        "S009",
        "engine_over_http",
        SchedulerEngineConfig,
        ("endpoint",),
        lambda engine: _is_plain(engine.endpoint) and not _sends_token(engine) and _is_far(engine.endpoint),
        "workflows and payloads are sent unencrypted, and the engine does not ask for credentials; use https",
    ),
    *(
        InsecureSetting("S010", "short_token", kind, ("token",), lambda engine: _is_short(engine.token), _SHORT_TOKEN)
        for kind in (SchedulerEngineConfig, EmbeddedEngineConfig)
    ),
    InsecureSetting(
        "S011",
        "engine_port_open",
        EmbeddedEngineConfig,
        ("listen",),
        _is_open_port,
        "every process on this machine has full access to the engine; set a `token`",
    ),
    InsecureSetting(
        "S012",
        "engine_port_without_tls",
        EmbeddedEngineConfig,
        ("behind_tls_proxy",),
        _is_clear_port,
        _CLEAR_PORT,
    ),
    InsecureSetting(
        "S013",
        "ops_port_without_tls",
        HttpConfig,
        ("host",),
        lambda http: _is_far_http(http) and http.tls is None,
        "every client of this port can read health and metrics, unencrypted; set `tls` with "
        "`client_ca`, or restrict the port to probes and scrapers",
    ),
    InsecureSetting(
        "S014",
        "ops_port_open",
        HttpConfig,
        ("host",),
        lambda http: _is_far_http(http) and http.tls is not None and http.tls.client_ca is None,
        "every client of this port can read health and metrics; set `tls.client_ca`, or restrict "
        "the port to probes and scrapers",
    ),
    InsecureSetting(
        "S016",
        "tokens_without_tls",
        HttpConfig,
        ("access",),
        lambda http: _is_far_http(http) and http.tls is None and http.access != AccessConfig(),
        "whoever can read the network can use the tokens; set `tls`, or end TLS at a proxy on this machine and listen "
        "on loopback",
    ),
    InsecureSetting(
        "S017",
        "identity_provider_without_tls",
        OidcConfig,
        ("issuer",),
        lambda oidc: _is_far_plain(oidc.jwks_url or oidc.issuer),
        "whoever can change the network can issue tokens; use https",
    ),
    InsecureSetting(
        "S018",
        "webhook_without_tls",
        WebhookBrokerConfig,
        ("url",),
        lambda webhook: _is_far_plain(webhook.url),
        "events and credentials are sent unencrypted; use https",
    ),
)
"""Rules for all insecure settings except secrets written in a file, which apply to every model."""

LITERAL_SECRET = "the secret is written in the file; read it from `${NAME}` or `${file:NAME}`"  # noqa: S105 - a text


def insecure(config: BridgeConfig, root: Node, locate: Locate) -> Iterator[Problem]:
    """Warnings for insecure settings, in no particular order.

    root: tree of the document, which shows the origin of secrets.
    """
    for path, model in models_in(config):
        for rule in INSECURE_SETTINGS:
            if isinstance(model, rule.kind) and rule.applies(model):
                yield coded(rule.code, locate((*path, *rule.field), rule.what))
        for name, field in type(model).model_fields.items():
            here = (*path, field.alias or name)
            if isinstance(getattr(model, name), SecretStr) and _is_literal(find(root, here), model):
                yield coded("S015", locate(here, LITERAL_SECRET))


def _is_literal(node: Node | None, model: BaseModel) -> bool:
    if isinstance(model, ServiceBusBrokerConfig) and _is_emulator(model):
        return False  # the emulator's key is public
    return isinstance(node, ScalarNode) and not node.variables
