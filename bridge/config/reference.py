"""Configuration reference in Markdown, generated from the models: `python -m bridge.config.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bridge.config.model import (
    access,
    brokers,
    check,
    claims,
    encryption,
    engines,
    payloads,
    registries,
    routes,
    sagas,
    servicebus,
    sources,
    tls,
    webhook,
)
from bridge.config.model import bridge as model
from bridge.config.model.types import (
    NAME_PATTERN,
    check_entity,
    check_topic,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)
from bridge.config.model_fields import members

_INTRODUCTION = """\
# Configuration reference

Written from the models by `python -m bridge.config.reference`; do not edit it.

A configuration is one YAML file, several, or a directory of `*.yaml` and `*.yml` files, read in the order of their
names. `bridge check` shows every problem with its file, line and column, `bridge check --print` shows the effective
values with their origins, and `bridge check --schema` prints the JSON Schema for editors
(`# yaml-language-server: $schema=...`).

```yaml
engine: {type: embedded}
workflows: [workflows.orders]
brokers:
  local: {type: local}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter}
routes:
  - name: start-order
    from: orders
    match: {type: order.created}
    when: payload.total > 0.0
    schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}"}
```

## Several files, overlays, defaults

- **Several files** are merged: mappings are joined, `routes` and the lists below `workflows` are concatenated. A value
  or an entry that two files both contain is an error that names both places.
- **Overlays** (`--overlay prod.yaml`) take precedence. A route in an overlay changes the route of the same `name`; a
  command in it replaces the route's command. An engine or a broker with another `type` replaces the whole entry.
- **`defaults:`** holds keys per kind (`source`, `route`, `target`, `broker`, `engine`), which apply to every entry that
  leaves them out. Defaults below a command apply only to routes with that command.
- **Paths** are relative to the file that they are written in; default paths to the first file.

## Values

- **Text, numbers, booleans** are YAML 1.2's: `yes`, `no`, `on`, `off`, dates, times, `007` and `0x1f` are text.
  Anchors, aliases and `<<` work; tags (`!!...`) and several documents in one file do not.
- **Percentage**: `5%`, or the number 0.05.
- **Duration**: a number with a unit: `250ms`, `30s`, `5m`, `1h30m`, `7d`.
- **Rate**: a number and a unit of time: `50/s`, `3000/m`, `10/h`, `100/d`.
- **Size**: bytes, or a number with a unit: `4096`, `64KiB`, `1MiB`, `1MB`.
- **CEL**: the whole text is an expression. **Template**: literal text with CEL in `{{ }}`.
- **`${VAR}`**, **`${VAR:-default}`** and **`${file:NAME}`** are replaced below `brokers`, `registries`, `engines`
  and `ops`, and nowhere else; `$${` stands for the characters `${`. `${file:NAME}` reads a file below `ops.secrets_dir`
  without its last line break. Values of secret files, and of variables with names of secrets, are never shown.
"""

EXAMPLES = """\
engines:
  default: {type: embedded, path: .bridge/engine}
  eu: {type: scheduler, endpoint: "${ENDPOINT:-http://localhost:8080}", task_hub: orders}

workflows: {modules: [workflows.orders], external: [bill_customer]}

vars: {currency: EUR, limits: {large: 1000}}

brokers:
  local: {type: local, path: .bridge/broker, retention: 7d}
  events:
    type: kafka
    bootstrap_servers: "${KAFKA_BOOTSTRAP:-localhost:9092}"
    tls: {ca: certificates/kafka-ca.pem}
    sasl: {mechanism: SCRAM-SHA-512, username: bridge, password: "${KAFKA_PASSWORD:-}"}
  bus: {type: servicebus, namespace: "${SB_NAMESPACE:-shop}"}
  hooks: {type: webhook, url: "https://ops.example.com/bridge", token: "${WEBHOOK_TOKEN:-none}"}

registries:
  main: {url: "https://schemas.example.com", username: bridge, password: "${REGISTRY_PASSWORD:-}"}

targets:
  order-results: {broker: local, topic: order-results}
  refund-results: {broker: bus, queue: refund-results}
  ops: {broker: hooks}

sources:
  payments:
    broker: local
    topics: [payments]
    codec: json
    attributes: {type: "headers['eventType']"}
    no_match: dead_letter
    retry: {in_memory: 10s}
  answers: {broker: local, topics: [answers], no_match: dead_letter}
  refunds: {broker: bus, queue: refunds, sessions: true, no_match: dead_letter}

sagas:
  payout:
    replies: answers
    steps:
      - name: transfer
        command: {target: order-results, type: transfer.requested, data: "{'amount': input.amount}"}
        refused: reply.status == 'refused'
        timeout: 5m
        compensation: {target: order-results, type: transfer.recalled}

routes:
  - name: start-payout
    from: payments
    match: {type: payment.due}
    schedule: {saga: payout, instance_id: "payout-{{ payload.id }}"}
  - name: answers
    from: answers
    reply: {}
  - name: payment-captured
    from: payments
    match: {type: payment.captured, headers.region: [eu, us]}
    raise_event: {instance_id: "order-{{ payload.order_id }}", name: payment_captured}
  - name: refund-arrived
    from: refunds
    raise_event: {instance_id: "refund-{{ payload.id }}", name: arrived}

events:
  target: ops
  kinds: [instance.failed, dead_letter.new_cause, source.stuck]

rules:
  candidate: new/
  share: 5%

ops:
  http: {port: 0}
  drain: 10s

check:
  ignore:
    - {code: R007, at: routes.start-order, reason: the schema of the source restricts the ids}
"""
"""One example per section. Together they form a configuration."""

_MODELS: dict[str, dict[type[BaseModel], str | None]] = {
    "engines": {
        engines.EmbeddedEngineConfig: "type: embedded", engines.SchedulerEngineConfig: "type: scheduler",
        tls.ClientTlsConfig: "tls", engines.WorkerConfig: "worker", engines.EarlyMessagesConfig: "early_messages",
        engines.AnswersConfig: "answers", encryption.EncryptionConfig: "encryption",
        encryption.EncryptionKeyConfig: "encryption.keys", payloads.FilePayloadsConfig: "payloads of type: embedded",
        payloads.FilesStoreConfig: "payloads.store of type: files",
        payloads.RemotePayloadsConfig: "payloads of type: scheduler",
        payloads.EngineStoreConfig: "payloads.store of type: engine",
        payloads.BlobStoreConfig: "payloads.store of type: blob",
    },
    "workflows": {
        engines.WorkflowsConfig: "",
    },
    "brokers": {
        brokers.LocalBrokerConfig: "type: local", brokers.KafkaBrokerConfig: "type: kafka",
        brokers.KafkaTlsConfig: "tls", brokers.KafkaSaslConfig: "sasl",
        servicebus.ServiceBusBrokerConfig: "type: servicebus", servicebus.ServiceBusSasConfig: "sas",
        servicebus.ServiceBusTlsConfig: "tls of servicebus", webhook.WebhookBrokerConfig: "type: webhook",
        webhook.WebhookRetryConfig: "retry of webhook", webhook.WebhookTlsConfig: "tls of webhook",
    },
    "registries": {
        registries.RegistryConfig: "", registries.RegistryTlsConfig: "tls",
    },
    "targets": {
        brokers.TargetConfig: "", brokers.TargetSchemaConfig: "schemas",
        servicebus.ServiceBusTargetConfig: "servicebus of a target",
        claims.TargetClaimConfig: "claim_check of a target",
        claims.TargetFilesConfig: "claim_check.store of type: files",
        claims.TargetBlobConfig: "claim_check.store of type: blob",
    },
    "sources": {
        sources.SourceConfig: "", sources.RetryConfig: "retry", sources.LimitsConfig: "limits",
        sources.SourcePerConfig: "limits.per", sources.QuarantineConfig: "quarantine", sources.UpcastConfig: "upcast",
        claims.ClaimCheckConfig: "claim_check", sources.KafkaSourceConfig: "kafka",
        servicebus.SessionsConfig: "sessions", servicebus.ServiceBusSourceConfig: "servicebus of a source",
    },
    "sagas": {
        sagas.SagaConfig: "", sagas.SagaStepConfig: "steps", sagas.CommandConfig: "command",
        sagas.AttemptsConfig: "retry",
    },
    "routes": {
        routes.RouteConfig: "", routes.EngineMoveConfig: "engine: {start: ..., find: ...}",
        routes.RouteLimitsConfig: "limits", routes.RoutePerConfig: "limits.per", routes.ScheduleConfig: None,
        routes.RaiseEventConfig: None, routes.StartOrRaiseConfig: None, routes.ReplyConfig: None,
        routes.CancelConfig: None, routes.TerminateConfig: None, routes.SuspendConfig: None, routes.ResumeConfig: None,
        routes.SignalEntityConfig: None, routes.IgnoreConfig: None, routes.WaitMissing: "on_missing: {wait: ...}",
        routes.StartMissing: "on_missing: {start: ...}",
    },
    "ops": {
        model.OpsConfig: "", model.HttpConfig: "http", tls.ServerTlsConfig: "tls", access.AccessConfig: "http.access",
        access.OidcConfig: "http.access.oidc", access.OidcLoginConfig: "http.access.oidc.login",
        access.BrowserSessionsConfig: "http.access.sessions", model.PeersConfig: "http.peers",
        model.ControlConfig: "control", model.ReloadConfig: "reload", model.LogConfig: "log",
        model.TracingConfig: "tracing", model.AuditConfig: "audit", model.LineageConfig: "lineage",
        model.LineageShardsConfig: "lineage.shards", model.DeadLettersConfig: "dead_letters", model.JobsConfig: "jobs",
    },
    "events": {
        model.EventsConfig: "",
    },
    "rules": {
        model.RulesConfig: "", model.FallbackConfig: "fallback",
    },
    "check": {
        check.CheckConfig: "", check.IgnoreWarningConfig: "ignore",
    },
}  # fmt: skip
"""Models of each section, in order, with their headings.

The table of a model with an empty heading stands under that of its section. None: the key of the command in a route.
"""


_LANGUAGES = {"cel": "CEL", "cel-template": "template"}
_VALIDATED: dict[Any, str] = {
    parse_duration: "duration", parse_size: "size", parse_rate: "rate", parse_share: "percentage", check_topic: "topic",
    check_entity: "queue or topic", servicebus.sessions: "boolean or mapping",
}  # fmt: skip
_PLAIN: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "boolean", NoneType: "null", SecretStr: "secret text",
    Any: "anything",
}  # fmt: skip


def reference() -> str:
    """Complete reference as Markdown."""
    parts = [_INTRODUCTION, "## Sections\n", "\n".join(_overview()) + "\n"]
    for example in EXAMPLES.rstrip().split("\n\n"):
        name = example.partition(":")[0]
        parts.append(f"## `{name}`\n\n{model.BridgeConfig.model_fields[name].description}\n\n```yaml\n{example}\n```\n")
        parts += ["\n".join(_table(*each)) + "\n" for each in _MODELS.get(name, {}).items()]
    return "\n".join(parts)


def _overview() -> Iterator[str]:
    for name, field in model.BridgeConfig.model_fields.items():
        required = " Required." if field.is_required() else ""
        yield f"- `{name}`: {field.description}{required}"
    yield "- `defaults`: Keys per kind that apply to every entry that leaves them out."


def _table(part: type[BaseModel], heading: str | None) -> Iterator[str]:
    if heading is None:
        keys = routes.RouteConfig.model_fields.items()
        heading = next(name for name, field in keys if part in members(field.annotation))
    if heading:
        yield f"### `{heading}`\n"
    yield f"{(part.__doc__ or '').strip()}\n"
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    dumped = _defaults(part)
    for name, field in part.model_fields.items():
        key = field.alias or name
        default = "required" if field.is_required() else _default(dumped.get(name))
        meaning = " ".join(filter(None, (field.description, _bounds(field)))).replace("|", "\\|")
        yield f"| `{key}` | {_type(field)} | {default} | {meaning} |"


def _defaults(part: type[BaseModel]) -> dict[str, Any]:
    """Default values as they would be written in a file."""
    given = {
        name: field.get_default(call_default_factory=True)
        for name, field in part.model_fields.items()
        if field.default is not PydanticUndefined or field.default_factory is not None
    }
    return part.model_construct(**given).model_dump(mode="json", warnings=False)


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict) and value:
        return "see below"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else '`""`'


def _bounds(field: FieldInfo) -> str:
    words = []
    for word, attribute in (("at least", "ge"), ("more than", "gt"), ("at most", "le")):
        words += [f"{word} {bound}" for part in field.metadata if (bound := getattr(part, attribute, None)) is not None]
    return f"({', '.join(words)})" if words else ""


def _type(field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return " or ".join(dict.fromkeys(_words(field.annotation, [*field.metadata, extra])))


def _words(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    """Words for the types that an annotation accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    special = next((word for part in metadata if (word := _special(part))), None)
    if special is not None:
        yield special
    elif origin is Annotated:
        yield from _words(arguments[0], annotation.__metadata__)
    elif origin in (Union, UnionType):
        for part in arguments:
            yield from _words(part, ())
    elif origin is Literal:
        yield from (f"`{word}`" for word in arguments)
    elif origin is tuple:
        yield f"list of {' or '.join(_words(arguments[0], ()))}"
    elif origin is dict:
        yield f"mapping to {' or '.join(dict.fromkeys(_words(arguments[1], ())))}"
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from (f"`{word}`" for word in annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "mapping"
    else:
        yield _PLAIN[annotation]


def _special(part: Any) -> str | None:
    if isinstance(part, FieldInfo):
        part = part.json_schema_extra
    if isinstance(part, dict):
        return _LANGUAGES.get(str(part.get("x-language")))
    if isinstance(part, WithJsonSchema) and part.json_schema is not None and "enum" in part.json_schema:
        return " or ".join(f"`{word}`" for word in part.json_schema["enum"])  # fewer values than the annotation has
    function = getattr(part, "func", None)
    if function is not None:
        return _VALIDATED.get(function)
    pattern = getattr(part, "pattern", None)
    return "name" if pattern == NAME_PATTERN else None


def main() -> None:
    """Print the reference."""
    sys.stdout.write(reference())


if __name__ == "__main__":
    main()
