"""Secrets of the configuration, planted by walking the models: a new field is covered at once."""

from __future__ import annotations

import base64
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from bridge.app.check.configuration import check
from bridge.config.model.bridge import BridgeConfig
from bridge.config.source import load, survey
from bridge.core.errors import ConfigError
from tests.secrets.planting import SECRET, leaks

Path_ = tuple[str, ...]

BASES: dict[str, dict[str, Any]] = {
    "local": {"type": "local"},
    "kafka": {"type": "kafka", "bootstrap_servers": "localhost:9092"},
    "servicebus": {"type": "servicebus", "namespace": "n"},
    "webhook": {"type": "webhook", "url": "https://localhost"},
}
"""Smallest entries by `type`, to which one secret at a time is added."""

TOGETHER: dict[str, dict[str, Any]] = {
    "KafkaSaslConfig.password": {"mechanism": "PLAIN", "username": "u"},
    "ServiceBusBrokerConfig.connection_string": {"namespace": None},
    "ServiceBusSasConfig.key": {"name": "n"},
    "BlobStoreConfig.connection_string": {"type": "blob"},
    "RegistryConfig.password": {"username": "u", "url": "https://localhost"},
    "RegistryConfig.token": {"url": "https://localhost"},
    "RegistryTlsConfig.key_password": {},
    "WebhookBrokerConfig.former_secret": {"secret": f"whsec_{'A' * 32}"},
    "OidcLoginConfig.client_secret": {"url": "https://bridge.example", "client_id": "page"},
}
"""Other settings that a secret requires."""

ABOVE: dict[str, dict[str, Any]] = {"oidc": {"issuer": "https://login.example", "audience": "bridge"}}
"""Settings that a section above a secret requires."""

PLAIN = {
    "KafkaSaslConfig.token": "names a provider",
    "KafkaTlsConfig.key": "names a file",
    "RegistryTlsConfig.key": "names a file",
    "ServerTlsConfig.key": "names a file",
    "ClientTlsConfig.key": "names a file",
    "WebhookTlsConfig.key": "names a file",
    "ServiceBusBrokerConfig.credential": "names a kind of identity",
    "SchedulerEngineConfig.credential": "names a kind of identity",
    "BlobStoreConfig.credential": "names a kind of identity",
    "TargetBlobConfig.credential": "names a kind of identity",
    "AccessConfig.tokens": "names a file, which has digests only",
    "ServiceBusTargetConfig.key": "says what becomes of a message's key",
    "OpsConfig.secrets_dir": "names a directory",
    "CommandConfig.key": "an expression",
    "SignalEntityConfig.key": "a template",
}
"""Fields with the name of a secret that hold none."""

NAMES = re.compile(r"pass|secret|token|(^|_)key$|credential|connection_string|signature|proxy", re.IGNORECASE)


def members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType) or origin in (dict, list, tuple):
        for part in get_args(annotation):
            yield from members(part)
    else:
        yield annotation


def fields(
    model: type[BaseModel], path: Path_, above: tuple[type[BaseModel], ...] = ()
) -> Iterator[tuple[Path_, str, Any]]:
    """Yield path in a file, `Model.field` and kind of all configuration fields. Lists and names are `*`."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        many = any(get_origin(each) in (dict, list, tuple) for each in _unions(field.annotation))
        for kind in members(field.annotation):
            yield here, f"{model.__name__}.{name}", kind
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in above:
                tag = kind.model_fields.get("type")
                chosen = get_args(tag.annotation)[0] if tag and get_origin(tag.annotation) is Literal else "*"
                yield from fields(kind, (*here, str(chosen)) if many else here, (*above, kind))


def _unions(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _unions(get_args(annotation)[0])
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


EVERY = list(fields(BridgeConfig, ()))
SECRETS = sorted({(path, name) for path, name, kind in EVERY if kind is SecretStr})


def planted(path: Path_, name: str, value: str) -> dict[str, Any]:
    """Create a configuration whose only secret is at `path`."""
    config: dict[str, Any] = {
        "engines": {"default": {"type": "embedded"}},
        "brokers": {"b": {"type": "local"}},
        "sources": {"s": {"broker": "b", "topics": ["t"], "no_match": "ignore"}},
    }
    section, chosen, *rest = path
    if section not in ("brokers", "engines", "registries"):
        entry: dict[str, Any] = config.setdefault(section, {})
        rest = [chosen, *rest]
    elif section == "brokers":
        entry = config["brokers"]["extra"] = dict(BASES[chosen])
    elif section == "engines":
        entry = config["engines"]["extra"] = {"type": chosen}
    else:
        entry = config[section] = {"extra": {"url": "https://localhost"}}
        entry = entry["extra"]
    for part in rest[:-1]:
        entry = entry.setdefault(part, {})
        entry.update(ABOVE.get(part, {}))
    entry.update(TOGETHER.get(name, {}))
    if name == "ServiceBusBrokerConfig.connection_string":
        del entry["namespace"]
        value = f"Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey={value}"
    entry[rest[-1]] = {"X-Key": value} if name == "WebhookBrokerConfig.headers" else value
    return config


def formed(name: str, secret: str) -> str:
    """Secret in the form that its setting requires."""
    is_key = name in ("WebhookBrokerConfig.secret", "WebhookBrokerConfig.former_secret")
    return f"whsec_{base64.b64encode(secret.encode()).decode()}" if is_key else secret


def test_the_walk_finds_the_secrets() -> None:
    assert len(SECRETS) >= 10
    assert {name for _, name in SECRETS} >= {"KafkaSaslConfig.password", "EmbeddedEngineConfig.token"}


@pytest.mark.parametrize(("path", "name"), SECRETS, ids=lambda each: each if isinstance(each, str) else ".".join(each))
@pytest.mark.parametrize("from_environment", [False, True])
def test_a_secret_is_never_shown(tmp_path: Path, path: Path_, name: str, from_environment: bool) -> None:
    """A secret in the file, or in a variable with an unobtrusive name, is not shown by --print, repr, str, hash or
    dump."""
    given = "${HARMLESS}" if from_environment else formed(name, SECRET)
    file = tmp_path / "bridge.yaml"
    file.write_text(json.dumps(planted(path, name, given)))
    loaded = load([file], environ={"HARMLESS": formed(name, SECRET)})
    shown = [loaded.effective(), repr(loaded), repr(loaded.config), str(loaded.config), repr(loaded.document)]
    shown += [loaded.config.model_dump_json(), str(loaded.config.model_dump())]
    assert not leaks("\n".join(shown[:4] + shown[5:]), SECRET)
    assert "*****" in shown[0]
    if from_environment:
        assert not leaks(loaded.effective(), SECRET)
    # The version must not allow guesses to be verified
    other = "${HARMLESS}" if from_environment else formed(name, SECRET + "x")
    file.write_text(json.dumps(planted(path, name, other)))
    assert load([file], environ={"HARMLESS": formed(name, SECRET + "x")}).version == loaded.version


@pytest.mark.parametrize(("path", "name"), SECRETS, ids=lambda each: each if isinstance(each, str) else ".".join(each))
@pytest.mark.parametrize("wrong", ["list", "mapping", "number"])
def test_problems_do_not_quote_a_secret(tmp_path: Path, path: Path_, name: str, wrong: str) -> None:
    config = planted(path, name, "PLACE")
    value = {"list": f'["{SECRET}"]', "mapping": f'{{"{SECRET}": "{SECRET}"}}', "number": "17"}[wrong]
    file = tmp_path / "bridge.yaml"
    file.write_text(re.sub(r'"[^"]*PLACE"', lambda _: value, json.dumps(config)))
    assert not leaks("\n".join(map(str, survey([file]).problems)), SECRET)


def test_what_is_called_like_a_secret_is_one() -> None:
    """Fields with the name of a secret are secrets, or are listed above with a reason."""
    suspicious = {
        name
        for _, name, kind in EVERY
        if kind is str and NAMES.search(name.partition(".")[2]) and kind is not SecretStr  # type: ignore[comparison-overlap]  # wider than its annotation, on purpose
    }
    assert suspicious <= set(PLAIN), suspicious - set(PLAIN)


URLS = {
    "bootstrap_servers": '{brokers: {b: {type: kafka, bootstrap_servers: "VALUE"}}, engine: {type: embedded}}',
    "namespace": '{brokers: {b: {type: servicebus, namespace: "VALUE"}}, engine: {type: embedded}}',
    "endpoint": '{brokers: {b: {type: servicebus, namespace: n, endpoint: "VALUE"}}, engine: {type: embedded}}',
    "registry": '{brokers: {b: {type: local}}, engine: {type: embedded}, registries: {r: {url: "VALUE"}}}',
    "scheduler": '{brokers: {b: {type: local}}, engine: {type: scheduler, endpoint: "VALUE"}}',
    "vars": '{brokers: {b: {type: local}}, engine: {type: embedded}, vars: {proxy: "VALUE"}}',
    "host": '{brokers: {b: {type: local}}, engine: {type: embedded}, ops: {http: {host: "VALUE"}}}',
    "issuer": "{brokers: {b: {type: local}}, engine: {type: embedded}, "
    'ops: {http: {access: {oidc: {issuer: "VALUE", audience: b}}}}}',
    "listen": '{brokers: {b: {type: local}}, engine: {type: embedded, listen: "VALUE"}}',
}


@pytest.mark.parametrize("place", URLS)
@pytest.mark.parametrize("url", [f"http://user:{SECRET}@host:8080", f"sasl://{SECRET}@host:1/x?y=1", f"u:{SECRET}@h:1"])
def test_credentials_in_an_address_are_not_shown(tmp_path: Path, place: str, url: str) -> None:
    """Credentials are hidden where an address is refused, and where it is printed."""
    if place == "vars" and "//" not in url:
        url = f"//{url}"  # without the mark of an address it is any text
    file = tmp_path / "bridge.yaml"
    file.write_text(URLS[place].replace("VALUE", url))
    said = "\n".join(map(str, check([file], imports=False).problems))
    try:
        said += load([file]).effective()
    except ConfigError as error:
        said += str(error)
    assert not leaks(said, SECRET)
