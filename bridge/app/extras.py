"""Extras of the package that a configuration needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from bridge.brokers import factory
from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.codecs import SCHEMA_CODECS
from bridge.system.package import install_extra

_MODULES = {
    "kafka": ("aiokafka", "cramjam"),
    "servicebus": ("azure.servicebus",),
    "blob": ("azure.storage.blob",),
    "keyvault": ("azure.keyvault.secrets",),
    "schemas": ("confluent_kafka", "fastavro", "google.protobuf"),
    "aws-msk": ("aws_msk_iam_sasl_signer",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}
"""Modules that an extra brings, by extra."""


@dataclass(frozen=True, slots=True)
class NeededExtra:
    """An extra, and the first place of the configuration that needs it."""

    extra: str
    path: tuple[str | int, ...]

    @property
    def missing(self) -> str | None:
        """First module of the extra that is not installed; None if all are."""
        return next((module for module in _MODULES[self.extra] if not _is_installed(module)), None)

    @property
    def remedy(self) -> str:
        """Command that installs the extra."""
        return install_extra(self.extra)


def needed_extras(config: BridgeConfig) -> list[NeededExtra]:
    """Extras that the daemon of a configuration needs, each with the first place that needs it."""
    found: dict[str, tuple[str | int, ...]] = {}
    for extra, path in _needed(config):
        found.setdefault(extra, path)
    return [NeededExtra(extra, path) for extra, path in found.items()]


def _needed(config: BridgeConfig) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    for name, broker in config.brokers.items():
        for extra, path in factory.extras_of(broker):
            yield extra, ("brokers", name, *path)
    for name, engine in config.engines.items():
        for at, key in enumerate(engine.encryption.keys if engine.encryption is not None else ()):
            if key.vault is not None:
                yield "keyvault", ("engines", name, "encryption", "keys", at, "vault")
        if engine.payloads is not None and engine.payloads.store.type == "blob":
            yield "blob", ("engines", name, "payloads", "store", "type")
    for name, target in config.targets.items():
        if target.claim_check is not None and target.claim_check.store.type == "blob":
            yield "blob", ("targets", name, "claim_check", "store", "type")
    for section, entries in (("sources", config.sources), ("targets", config.targets)):
        for name, entry in entries.items():
            if entry.codec in SCHEMA_CODECS:
                yield "schemas", (section, name, "codec")
    if config.registries:
        yield "schemas", ("registries",)
    tracing = config.ops.tracing
    if tracing.enabled is True or (tracing.enabled == "auto" and tracing.endpoint is not None):
        yield "otel", ("ops", "tracing", "enabled" if tracing.enabled is True else "endpoint")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or is blocked
        return False
