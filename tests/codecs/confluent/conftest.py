from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.codecs.confluent import Registry
from bridge.config.model.registries import RegistryConfig
from tests.registry import RegistryServer

MakeRegistry = Callable[..., Registry]


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


@pytest.fixture
async def connect() -> AsyncIterator[MakeRegistry]:
    """Factory of registries for a URL and settings."""
    made: list[Registry] = []

    def make(url: str, **settings: Any) -> Registry:
        config = RegistryConfig.model_validate({"url": url, "timeout": "5s"} | settings)
        made.append(Registry("main", config, lambda field, value: Path(value)))
        return made[-1]

    yield make
    for registry in made:
        await registry.close()


@pytest.fixture
def registry(server: RegistryServer, connect: MakeRegistry) -> Registry:
    return connect(server.url)
