"""Large payloads of a remote engine in Blob Storage: Azurite, an engine on a port, both kinds of workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from durabletask.extensions.azure_blob_payloads import BlobPayloadStore as SdkStore
from durabletask.extensions.azure_blob_payloads import BlobPayloadStoreOptions

from bridge.claims.publish import PublishedClaims
from bridge.codecs.cloudevents.codec import CloudEventsCodec
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.config.model.payloads import BlobStoreConfig, RemotePayloadsConfig
from bridge.core.errors import EngineDenied, LargePayloadLost, LargePayloadRefused, PayloadStoreUnavailable
from bridge.core.message import Event
from bridge.engines.blob_payloads import BlobPayloadStore, claim_store, sweep_once
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.workflow import DataConverter
from tests.engines.sidecar import Sidecar
from tests.kit.waiting import TIMEOUT
from tests.large_payloads.storage import Storage, running
from tests.large_payloads.test_embedded import ROOT, SIZE, completed, finished_flow, text_of

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]

NAMES = ("tests.large_payloads.workflows",)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running(tmp_path_factory.mktemp("azurite")) as found:
        yield found


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    found = Sidecar(tmp_path)
    found.start()
    yield found
    found.close()


def payloads_of(storage: Storage, container: str, **changes: Any) -> RemotePayloadsConfig:
    store = {"type": "blob", "connection_string": storage.connection_string, "container": container}
    return RemotePayloadsConfig.model_validate({"store": store, "max": 1_000_000, **changes})


def store_of(config: RemotePayloadsConfig) -> BlobPayloadStore:
    assert isinstance(config.store, BlobStoreConfig)
    return BlobPayloadStore(config.store, config.above, config.max)


def names_in(storage: Storage, container: str) -> list[str]:
    with ContainerClient.from_connection_string(storage.connection_string, container) as client:
        return list(client.list_blob_names())


@asynccontextmanager
async def working(
    sidecar: Sidecar, payloads: RemotePayloadsConfig, dispatch: str = "direct"
) -> AsyncIterator[SchedulerEngine]:
    config = SchedulerEngineConfig.model_validate(
        {"type": "scheduler", "endpoint": sidecar.endpoint, "dispatch": dispatch, "payloads": payloads}
    )
    engine = SchedulerEngine("remote", config)
    await engine.start()
    worker = engine.worker(load(NAMES, ROOT), DataConverter())
    worker.start()
    try:
        yield engine
    finally:
        assert await stop_worker(worker, TIMEOUT)
        await engine.stop()


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_payloads_pass_through_blobs_and_go_with_their_instances(
    storage: Storage, sidecar: Sidecar, dispatch: str
) -> None:
    container = f"passing-{dispatch}"
    payloads = payloads_of(storage, container)
    async with working(sidecar, payloads, dispatch) as engine:
        await finished_flow(engine)
        found = names_in(storage, container)
        assert {name.partition("/")[0] for name in found} == {"a", "a-child"}
        history = await engine.client.get_protocol_history("a")
        assert max(event.ByteSize() for event in history) > SIZE
        await engine.client.purge_orchestration("a", recursive=False)
        assert {name.partition("/")[0] for name in names_in(storage, container)} == {"a-child"}
        child = await engine.client.get_orchestration_state("a-child")
        assert child is not None
        assert child.get_input() == [text_of("i") + ".", text_of("e")]
        # The end of a retention is not reported: a sweep finds it
        await engine.client.sdk.purge_orchestration("a-child")
        store = store_of(payloads)
        await finished_flow(engine, "alive")
        assert await sweep_once("remote", store, engine.client, 3600.0) == 0
        assert await sweep_once("remote", store, engine.client, 0.0) > 0
        assert {name.partition("/")[0] for name in names_in(storage, container)} == {"alive", "alive-child"}
        store.close()


def test_the_sdk_reads_the_payloads_and_is_read(storage: Storage) -> None:
    ours = store_of(payloads_of(storage, "both"))
    sdk = SdkStore(BlobPayloadStoreOptions(connection_string=storage.connection_string, container_name="both"))
    text = text_of("ü").encode()
    assert sdk.download(ours.upload(text, instance_id="order-1")) == text
    token = sdk.upload(text, instance_id="order/1")
    assert ours.is_known_token(token)
    assert ours.download(token) == text
    assert ours.remove("order") == 0
    assert ours.remove("order/1") == 1
    assert ours.remove("order-1") == 1
    assert not ours.is_known_token("blob:v1:another:order-1/x")
    assert not ours.is_known_token('"blob:v1:both:x"')


def test_lost_large_and_refused_payloads_are_errors_without_secrets(storage: Storage) -> None:
    store = store_of(payloads_of(storage, "errors"))
    token = store.upload(b"x" * 500_000, instance_id="a")
    with pytest.raises(LargePayloadRefused, match=r"`payloads\.max`"):
        store.upload(b"x" * 1_000_001)
    small = store_of(payloads_of(storage, "errors", max=100_000))
    with pytest.raises(LargePayloadRefused, match=r"`payloads\.max`"):
        small.download(token)  # 500 bytes as they lie in the storage
    store.remove("a")
    with pytest.raises(LargePayloadLost, match="no such blob"):
        store.download(token)
    with ContainerClient.from_connection_string(storage.connection_string, "errors") as client:
        client.upload_blob("cut", b"\x1f\x8b\x08\x00")
    with pytest.raises(LargePayloadLost, match="cut off"):
        store.download("blob:v1:errors:cut")
    wrong = storage.connection_string.replace("Eby8", "AAAA")
    store_ = {"type": "blob", "connection_string": wrong, "container": "errors"}
    denied = store_of(RemotePayloadsConfig.model_validate({"store": store_}))
    with pytest.raises(EngineDenied) as caught:
        denied.download(token)
    assert "AAAA" not in str(caught.value)


async def test_work_waits_for_a_store_that_is_away(tmp_path: Path, sidecar: Sidecar) -> None:
    with running(tmp_path / "azurite") as storage:
        async with working(sidecar, payloads_of(storage, "away")) as engine:
            await engine.client.schedule_new_orchestration("flow", input=text_of("i"), instance_id="a")
            state = await engine.client.wait_for_orchestration_start("a", timeout=TIMEOUT)
            assert state is not None
            storage.stop()
            event = asyncio.create_task(engine.client.raise_orchestration_event("a", "more", data=text_of("e")))
            with pytest.raises(PayloadStoreUnavailable, match="store a payload"):
                await event
            # A worker that cannot read its input gives the work back, and the workflow does not fail
            await engine.client.raise_orchestration_event("a", "more", data="small")
            storage.start()
            output = await completed(engine, "a")
            assert output[1:] == ["small", "small."]


async def test_a_published_payload_is_named_by_its_event(storage: Storage, tmp_path: Path) -> None:
    config = payloads_of(storage, "published").store
    assert isinstance(config, BlobStoreConfig)
    claims = PublishedClaims("results", claim_store(config), 1024, "dataref", "dataref")
    event = Event("id-1", "shop", "done", {"text": text_of("p")})
    codec = CloudEventsCodec()
    messages = [await asyncio.to_thread(claims.apply, event, codec.encode(event)) for _ in range(2)]
    assert messages[0] == messages[1]
    (name,) = names_in(storage, "published")
    reference = json.loads(messages[0].body or b"")["dataref"]
    assert reference.endswith(f"/published/{name}")
    assert storage.key not in reference
    with ContainerClient.from_connection_string(storage.connection_string, "published") as client:
        assert json.loads(client.download_blob(name).readall()) == {"text": text_of("p")}
