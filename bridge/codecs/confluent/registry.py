"""Client of a schema registry, with the translation of its errors."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema, SchemaRegistryError

from bridge.codecs.confluent.sdk_internals import bound_answers, http_library
from bridge.codecs.confluent.wire import SchemaId
from bridge.config.model.registries import RegistryConfig
from bridge.core.errors import BridgeError, DecodeError, RegistryUnavailable, SchemaError, wire_name
from bridge.system.files import check_file
from bridge.system.tls import MAX_FILE

_T = TypeVar("_T")

_http: Any = http_library()
logging.getLogger(_http.__name__).setLevel(logging.WARNING)  # it logs every request

_UNKNOWN = frozenset({40401, 40402, 40403})
"""Error codes of a registry without such a subject, version or schema; any other 404 does not come from a registry."""
_NEW_SCHEMA_PAUSES = (0.2, 0.5)
"""Seconds between queries for an unknown id: a follower learns of a new schema later than its leader."""
_REFERENCES_LIMIT = 100
_AROUND = 65_536
"""Bytes of an answer beside the schema: ids, names, references."""
_WHOLE = 4
"""Number of request timeouts that a schema with all its references may take."""


@wire_name("bridge.codecs.confluent.registry.UnknownSchema")
class UnknownSchema(DecodeError):
    """The registry answers, but does not have the schema."""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema of the registry.

    text: the schema; for Protobuf, a file descriptor in base64.
    kind: AVRO, PROTOBUF, JSON.
    references: name and text of the referenced schemas, each after its own references.
    """

    text: str
    kind: str
    references: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Both ids of one schema. guid: None where the registry does not give any."""

    id: int
    guid: UUID | None


class Registry:
    """Registry client that connects at the first request. Only connections are cached."""

    def __init__(self, name: str, config: RegistryConfig, resolve: Callable[[str, str], Path]) -> None:
        """Create a registry. resolve: from a field below `tls` and its value to a path."""
        self.name = name
        self.latest_for = config.latest_for
        self._config = config
        self._resolve = resolve
        self._client: AsyncSchemaRegistryClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def schema(self, key: SchemaId, kind: str) -> RegisteredSchema:
        """Schema of an id. Raises: UnknownSchema, RegistryUnavailable."""
        what = f"schema {key}"
        return await self._in_time(_WHOLE, what, self._schema(what, key, kind))

    async def _schema(self, what: str, key: SchemaId, kind: str) -> RegisteredSchema:
        def get(client: AsyncSchemaRegistryClient) -> Awaitable[Schema]:
            if isinstance(key, UUID):
                return client.get_schema_by_guid(str(key), fmt=_format(kind))
            return client.get_schema(key, fmt=_format(kind))

        for pause in _NEW_SCHEMA_PAUSES:
            try:
                return await self._whole(await self._ask(what, get), kind)
            except UnknownSchema:
                await asyncio.sleep(pause)
        return await self._whole(await self._ask(what, get), kind)

    async def latest(self, subject: str, kind: str) -> tuple[SchemaIds, RegisteredSchema]:
        """Ids and text of the newest schema of a subject. Raises: UnknownSchema, RegistryUnavailable."""
        what = f"the latest schema of {subject}"
        return await self._in_time(_WHOLE, what, self._latest(what, subject, kind))

    async def _latest(self, what: str, subject: str, kind: str) -> tuple[SchemaIds, RegisteredSchema]:
        found = await self._ask(what, lambda client: client.get_latest_version(subject, fmt=_format(kind)))
        return self._ids(found.schema_id, found.guid), await self._whole(found.schema, kind)

    async def version(self, subject: str, version: int | None) -> RegisteredSchema:
        """Schema of a version of a subject; None: the latest. Raises: UnknownSchema, RegistryUnavailable."""
        what = f"version {version or 'latest'} of {subject}"
        return await self._in_time(_WHOLE, what, self._version(what, subject, version))

    async def _version(self, what: str, subject: str, version: int | None) -> RegisteredSchema:
        found = await self._ask(what, lambda client: client.get_version(subject, version or "latest"))
        return await self._whole(found.schema, "AVRO")

    async def find(self, subject: str, text: str, kind: str) -> SchemaIds:
        """Ids of a schema that was registered before. Raises: UnknownSchema, SchemaError, RegistryUnavailable."""
        schema = Schema(text, kind)
        found = await self._ask(
            f"the schema of {subject}", lambda client: client.lookup_schema(subject, schema, normalize_schemas=True)
        )
        return self._ids(found.schema_id, found.guid)

    async def register(self, subject: str, text: str, kind: str) -> SchemaIds:
        """Ids of a schema; a new schema is registered. Raises: SchemaError, RegistryUnavailable."""
        schema = Schema(text, kind)
        found = await self._ask(
            f"register a schema of {subject}",
            lambda client: client.register_schema_full_response(subject, schema, normalize_schemas=True),
        )
        return self._ids(found.schema_id, found.guid)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _whole(self, schema: Any, kind: str) -> RegisteredSchema:
        references: dict[str, str] = {}
        await self._references(schema, kind, references, set())
        text, written = self._text(schema), schema.schema_type or "AVRO"
        if not isinstance(written, str):
            raise self._no_registry()
        if len(text) + sum(map(len, references.values())) > self._config.max_schema:
            raise self._too_large()
        return RegisteredSchema(text, written, tuple(references.items()))

    async def _references(self, schema: Any, kind: str, found: dict[str, str], seen: set[str]) -> None:
        """Add the references of a schema, each after its own references. seen: names found so far."""
        for reference in getattr(schema, "references", None) or ():
            name, subject, version = reference.name, reference.subject, reference.version
            if not (isinstance(name, str) and isinstance(subject, str) and isinstance(version, int)):
                raise self._no_registry()
            if name in seen:
                continue
            if len(seen) >= _REFERENCES_LIMIT:
                raise DecodeError(f"registry {self.name}: the schema refers to more than {_REFERENCES_LIMIT} others")
            seen.add(name)
            below = await self._ask(
                f"version {version} of {subject}",
                lambda client, subject=subject, version=version: client.get_version(  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
                    subject, version, fmt=_format(kind)
                ),
            )
            await self._references(below.schema, kind, found, seen)
            found[name] = self._text(below.schema)

    def _text(self, schema: Any) -> str:
        text = getattr(schema, "schema_str", None)
        if not isinstance(text, str):
            raise RegistryUnavailable(f"registry {self.name}: the answer holds no schema")
        return text

    def _ids(self, number: Any, guid: Any) -> SchemaIds:
        try:
            if type(number) is int and 0 <= number < 2**32:
                return SchemaIds(number, UUID(guid) if guid else None)
        except (ValueError, TypeError, AttributeError):
            pass
        raise RegistryUnavailable(f"registry {self.name}: the answer holds no id of a schema")

    def _no_registry(self) -> RegistryUnavailable:
        return RegistryUnavailable(f"registry {self.name}: what answers is no schema registry, check `url`")

    def _too_large(self) -> DecodeError:
        return DecodeError(
            f"registry {self.name}: the schema is larger than the {self._config.max_schema} bytes that its max_schema "
            "allows"
        )

    def _connected(self) -> AsyncSchemaRegistryClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = AsyncSchemaRegistryClient(self._arguments()), loop
            bound_answers(self._client, self._config.max_schema + _AROUND, self._too_large)
        return self._client

    def _arguments(self) -> dict[str, object]:
        config = self._config
        given: dict[str, object] = {"url": config.url, "timeout": config.timeout, "max.retries": 0}
        if config.username is not None and config.password is not None:
            given["basic.auth.user.info"] = f"{config.username}:{config.password.get_secret_value()}"
        if config.token is not None:
            given["bearer.auth.credentials.source"] = "STATIC_TOKEN"
            given["bearer.auth.token"] = config.token.get_secret_value()
            given["bearer.auth.logical.cluster"] = config.logical_cluster or ""
            if config.identity_pool is not None:
                given["bearer.auth.identity.pool.id"] = config.identity_pool
        tls = config.tls
        default = ssl.get_default_verify_paths()
        # The system's authorities, as in all other connections; the client alone would use a list of its own
        authorities = self._file("ca", tls.ca) if tls and tls.ca else default.cafile or default.capath
        if authorities is not None:
            given["ssl.ca.location"] = authorities
        if tls is not None and tls.certificate:
            given["ssl.certificate.location"] = self._file("certificate", tls.certificate)
            if tls.key:
                given["ssl.key.location"] = self._file("key", tls.key)
            if tls.key_password:
                given["ssl.key.password"] = tls.key_password.get_secret_value()
        return given

    def _file(self, field: str, value: str) -> str:
        return str(check_file(self._resolve(field, value), MAX_FILE))

    async def _in_time(self, timeouts: int, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with asyncio.timeout(self._config.timeout * timeouts):
                return await work
        except TimeoutError as error:
            raise RegistryUnavailable(f"registry {self.name}: no answer in time ({what})") from error

    async def _ask(self, what: str, question: Callable[[AsyncSchemaRegistryClient], Awaitable[_T]]) -> _T:
        try:
            return await self._in_time(2, what, self._answer(question))
        except SchemaRegistryError as error:
            raise self._refusal(what, error) from error
        except BridgeError:
            raise
        except Exception as error:  # an answer of any form meets the client's code here
            raise RegistryUnavailable(f"registry {self.name}: {_explain(error)} ({what})") from error

    async def _answer(self, question: Callable[[AsyncSchemaRegistryClient], Awaitable[_T]]) -> _T:
        client = self._connected()
        found = await question(client)
        # The client would cache a thousand schemas of any size, and the latest of a subject forever
        await client.clear_caches()
        return found

    def _refusal(self, what: str, error: SchemaRegistryError) -> BridgeError:
        status = error.http_status_code
        code: Any = error.error_code  # as it was answered
        if status == 404 and isinstance(code, int) and code in _UNKNOWN:
            return UnknownSchema(f"registry {self.name} does not have {what}")
        if status in (401, 403):
            return RegistryUnavailable(f"registry {self.name} refused the credentials ({what}, HTTP {status})")
        if status == 409:
            return SchemaError(f"registry {self.name} refused to {what}: it is not compatible with earlier ones")
        if status == 422:
            return SchemaError(f"registry {self.name} refused {what} as invalid")
        return RegistryUnavailable(
            f"registry {self.name} answered {what} with HTTP {status}; check that `url` is a schema registry's"
        )


def _format(kind: str) -> str | None:
    return "serialized" if kind == "PROTOBUF" else None


def _explain(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is not trusted ({cause.verify_message}); "
                "set `tls.ca` to the authority that signed it, or check the host name"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, _http.HTTPError | OSError):
        return f"nobody answers: {type(error).__name__}: {error}"
    return "what answers is no schema registry, check `url`"
