"""Confluent-compatible registry for serializers and deserializers: in memory, Protobuf as descriptors."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

UNKNOWN_SUBJECT, UNKNOWN_VERSION, UNKNOWN_SCHEMA = 40401, 40402, 40403


@dataclass
class _State:
    schemas: list[dict[str, Any]] = field(default_factory=list)
    subjects: dict[str, list[int]] = field(default_factory=dict)


class RegistryServer:
    """Registry that records its requests, and refuses them as `status` and `authorization` say."""

    def __init__(self, certificate: Path | None = None, port: int = 0) -> None:
        """Start the registry. certificate: file with certificate and key, for TLS."""
        self.asked: list[str] = []
        """Method and path of every request."""
        self.status: int | None = None
        """HTTP status of every answer; None: regular answers."""
        self.authorization: str | None = None
        """Required value of the Authorization header; None: no check."""
        self.incompatible = False
        """Refuse every new version."""
        self._state = _State()
        self._certificate = certificate
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="schema-registry", daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._run(self._start())

    def stop(self) -> None:
        """Stop listening; registered schemas stay."""
        if self._runner is not None:
            self._run(self._runner.cleanup())
            self._runner = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def register(
        self, subject: str, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None
    ) -> int:
        """Register a schema as a client would. Returns the id."""
        return int(
            self._register(subject, {"schema": schema, "schemaType": kind, "references": references or []})["id"]
        )

    def guid(self, number: int) -> uuid.UUID:
        """Return the GUID of the schema with this id."""
        return uuid.UUID(self._state.schemas[number - 1]["guid"])

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._inspect])
        app.add_routes(
            [
                web.get("/schemas/ids/{id}", self._by_id),
                web.get("/schemas/guids/{guid}", self._by_guid),
                web.get("/subjects/{subject}/versions/{version}", self._version),
                web.post("/subjects/{subject}/versions", self._post),
                web.post("/subjects/{subject}", self._lookup),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        context = None
        if self._certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._certificate)
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    @web.middleware
    async def _inspect(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.authorization is not None and request.headers.get("Authorization") != self.authorization:
            return _refused(401, 40101, "Unauthorized")
        if self.status is not None:
            return _refused(self.status, self.status * 100, "refused by the test")
        return await handler(request)

    async def _by_id(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        if not 0 < number <= len(self._state.schemas):
            return _refused(404, UNKNOWN_SCHEMA, f"Schema {number} not found")
        return _answer(self._state.schemas[number - 1], request)

    async def _by_guid(self, request: web.Request) -> web.Response:
        for schema in self._state.schemas:
            if schema["guid"] == request.match_info["guid"]:
                return _answer(schema, request)
        return _refused(404, UNKNOWN_SCHEMA, "Schema not found")

    async def _version(self, request: web.Request) -> web.Response:
        numbers = self._state.subjects.get(request.match_info["subject"])
        if numbers is None:
            return _refused(404, UNKNOWN_SUBJECT, "Subject not found")
        version = request.match_info["version"]
        at = len(numbers) if version in ("latest", "-1") else int(version)
        if not 0 < at <= len(numbers):
            return _refused(404, UNKNOWN_VERSION, "Version not found")
        found = self._state.schemas[numbers[at - 1] - 1]
        return _answer(found | {"subject": request.match_info["subject"], "version": at}, request)

    async def _post(self, request: web.Request) -> web.Response:
        if self.incompatible:
            return _refused(409, 40901, "Schema being registered is incompatible with an earlier schema")
        return web.json_response(self._register(request.match_info["subject"], await request.json()))

    async def _lookup(self, request: web.Request) -> web.Response:
        subject, wanted = request.match_info["subject"], _normal(await request.json())
        if subject not in self._state.subjects:
            return _refused(404, UNKNOWN_SUBJECT, "Subject not found")
        for version, number in enumerate(self._state.subjects[subject], 1):
            found = self._state.schemas[number - 1]
            if _normal(found) == wanted:
                return web.json_response(found | {"subject": subject, "version": version})
        return _refused(404, UNKNOWN_SCHEMA, "Schema not found")

    def _register(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        state, wanted = self._state, _normal(body)
        if wanted["schemaType"] == "PROTOBUF":
            base64.b64decode(wanted["schema"], validate=True)
        for schema in state.schemas:
            if _normal(schema) == wanted:
                break
        else:
            schema = wanted | {"id": len(state.schemas) + 1, "guid": str(uuid.uuid4())}
            state.schemas.append(schema)
        numbers = state.subjects.setdefault(subject, [])
        if schema["id"] not in numbers:
            numbers.append(schema["id"])
        return schema | {"version": numbers.index(schema["id"]) + 1}

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": body["schema"],
        "schemaType": body.get("schemaType") or "AVRO",
        "references": body.get("references") or [],
    }


def _answer(schema: dict[str, Any], request: web.Request) -> web.Response:
    if schema["schemaType"] == "PROTOBUF" and request.query.get("format") != "serialized":
        return _refused(501, 50101, "this one does not print .proto files")
    return web.json_response(schema)


def _refused(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status)
