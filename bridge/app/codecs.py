"""Codecs of sources and targets, and their schema registries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.codecs import registry as codecs
from bridge.codecs.base import Codec
from bridge.codecs.json import StandInCodec
from bridge.config.model.brokers import TargetSchemaConfig
from bridge.config.model.codecs import SCHEMA_CODECS
from bridge.config.source import Loaded
from bridge.core.errors import ConfigError, DecodeError
from bridge.core.problems.codes import coded
from bridge.system.package import install_extra

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry


def build_registries(loaded: Loaded) -> dict[str, Registry]:
    """Every registry by name, without a connection yet. Raises: ConfigError when the extra is missing."""
    configs = loaded.config.registries
    if not configs:
        return {}
    try:
        from bridge.codecs.confluent import Registry  # its libraries come with an extra
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        what = f"the package {package} is missing; install the extra: {install_extra('schemas')}"
        raise ConfigError([replace(loaded.locate(("registries",), what), code="C014")]) from error

    def resolve(name: str, field: str, value: str) -> Path:
        return loaded.resolve(("registries", name, "tls", field), value)

    return {name: Registry(name, config, partial(resolve, name)) for name, config in configs.items()}


def source_codec(loaded: Loaded, source: str, registries: Mapping[str, Registry] | None) -> Codec:
    """Codec that reads a source. registries: None uses a JSON stand-in for codecs that need one."""
    config = loaded.config.sources[source]
    if config.codec not in SCHEMA_CODECS:
        return codecs.get(config.codec, config.limits)
    if registries is None:
        return StandInCodec(config.limits)
    from bridge.codecs.confluent import AVRO, PROTOBUF, RegistryCodec

    form = AVRO if config.codec == "avro" else PROTOBUF
    registry = _registry(loaded, ("sources", source, "codec"), registries, config.registry)
    return RegistryCodec(config.codec, form, registry, config.limits)


def target_codec(loaded: Loaded, target: str, registries: Mapping[str, Registry] | None) -> Codec:
    """Codec that writes a target.

    registries: None uses a JSON stand-in for codecs that need one.
    Raises: ConfigError when the target's schema cannot be used.
    """
    config = loaded.config.targets[target]
    if config.codec not in SCHEMA_CODECS:
        return codecs.get(config.codec)
    if registries is None:
        return StandInCodec()
    from bridge.codecs.confluent import AVRO, PROTOBUF, RegistryCodec, SchemaChooser

    form = AVRO if config.codec == "avro" else PROTOBUF
    wanted = config.schemas or TargetSchemaConfig()
    registry = _registry(loaded, ("targets", target, "codec"), registries, wanted.registry)
    path = ("targets", target, "schemas", "file")
    try:
        chooser = SchemaChooser(
            registry,
            form,
            topic=config.address,
            subject=wanted.subject,
            own=loaded.resolve(path, wanted.file) if wanted.file is not None else None,
            message=wanted.message,
            auto_register=wanted.auto_register,
            place=wanted.schema_id,
        )
    except DecodeError as error:
        raise ConfigError([coded("C012", loaded.locate(path, str(error)))]) from None
    return RegistryCodec(config.codec, form, registry, chooser=chooser)


def _registry(
    loaded: Loaded, path: tuple[str | int, ...], registries: Mapping[str, Registry], name: str | None
) -> Registry:
    found = registries.get(name) if name is not None else next(iter(registries.values()), None)
    if found is None:
        raise ConfigError([loaded.locate(path, "the schema registry is not configured")])
    return found
