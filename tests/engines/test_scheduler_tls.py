"""Scheduler engine over TLS with a private authority, with certificates on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from bridge.app.composition import build_engine, load_config
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.config.model.tls import ClientTlsConfig, ServerTlsConfig
from bridge.core.errors import EngineMisconfigured, EngineOutage
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, harness
from tests.kafka.certificates import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="endpoint")
async def listening(authority: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tls = ServerTlsConfig(certificate=str(authority.issue("engine")), client_ca=str(authority.file))
    config = EmbeddedEngineConfig(type="embedded", listen="127.0.0.1:0", tls=tls)
    host = EmbeddedEngine("default", config, tmp_path_factory.mktemp("engine"), host=True)
    await host.start()
    yield f"https://127.0.0.1:{host._servers[1].ports[0]}"
    await host.stop()


def engine(endpoint: str, tls: ClientTlsConfig | None, **more: object) -> SchedulerEngine:
    return SchedulerEngine(
        "default",
        SchedulerEngineConfig(type="scheduler", endpoint=endpoint, tls=tls, credential="none", **more),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness")
async def remote(endpoint: Any, authority: Any) -> Any:
    tls = ClientTlsConfig(ca=str(authority.file), certificate=str(authority.issue("bridge")))
    over_tls = engine(endpoint, tls, max_request="512KiB")
    await over_tls.start()
    async with harness(over_tls) as running:
        yield running
    await over_tls.stop()


class TestOverTls(EngineContract):
    pass


@pytest.mark.parametrize("wrong", ["nothing", "no certificate", "another's certificate", "another authority"])
async def test_who_shows_the_wrong_certificate_gets_nowhere(
    endpoint: str, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    other = Authority(tmp_path / "other")
    tls = {
        "nothing": None,
        "no certificate": ClientTlsConfig(ca=str(authority.file)),
        "another's certificate": ClientTlsConfig(ca=str(authority.file), certificate=str(other.issue("x"))),
        "another authority": ClientTlsConfig(ca=str(other.file), certificate=str(authority.issue("y"))),
    }[wrong]
    refused = engine(endpoint, tls, timeout="3s")
    await refused.start()
    with pytest.raises(EngineOutage):
        await refused.probe()
    await refused.stop()


@pytest.mark.parametrize("field", ["ca", "certificate"])
@pytest.mark.parametrize("content", [None, b"hello"], ids=["missing", "not PEM"])
async def test_files_that_cannot_be_used(tmp_path: Path, field: str, content: bytes | None) -> None:
    """File names are relative to the configuration."""
    if content is not None:
        (tmp_path / "x.pem").write_bytes(content)
    (tmp_path / "bridge.yaml").write_text(
        f"engine: {{type: scheduler, endpoint: 'https://127.0.0.1:1', credential: none, tls: {{{field}: x.pem}}}}\n"
        "brokers: {local: {type: local}}\n"
    )
    broken = build_engine(load_config([tmp_path / "bridge.yaml"]), "default", host=False)
    with pytest.raises(EngineMisconfigured, match=f"{tmp_path}/x.pem: "):
        await broken.start()


async def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="`tls` needs an https endpoint"):
        engine("http://127.0.0.1:1", ClientTlsConfig(ca="x"))
    with pytest.raises(ValidationError, match="`key` needs `certificate`"):
        ClientTlsConfig(key="x")
