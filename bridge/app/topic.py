"""Reads the messages of a configured broker's topic, beside those who consume them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

from bridge.app.composition import build_broker, subscribe_options
from bridge.app.names import require
from bridge.brokers.reading import ReadableBroker, ReadOptions
from bridge.config.source import Loaded
from bridge.message import Message, Position


def resolve(loaded: Loaded, text: str) -> tuple[str, str]:
    """The broker and the topic that `SOURCE` or `BROKER/TOPIC` means. Raises: LookupError."""
    config = loaded.config
    name, slash, topic = text.partition("/")
    if slash:
        require("broker", name, config.brokers)
        if not topic:
            raise LookupError(f"name the topic too, like {name}/TOPIC")
        return name, topic
    require("source", name, config.sources, "a topic is written BROKER/TOPIC")
    broker = config.sources[name].broker
    topics = subscribe_options(loaded, name).topics
    if len(topics) != 1:
        known = ", ".join(f"{broker}/{topic}" for topic in topics) or f"{broker}/TOPIC"
        raise LookupError(f"the source {name!r} reads more than one topic; name one: {known}")
    return broker, topics[0]


def read(
    loaded: Loaded, broker_name: str, options: ReadOptions, limit: int | None, show: Callable[[Position, Message], None]
) -> int:
    """Show messages as they are read, at most `limit`; returns how many. Raises: BrokerError, BrokerUnavailable."""

    async def visit() -> int:
        broker = build_broker(loaded, broker_name)
        assert isinstance(broker, ReadableBroker)
        await broker.start()
        count = 0
        try:
            async with aclosing(cast(Any, broker.read(options))) as found:
                async for position, message in found:
                    show(position, message)
                    count += 1
                    if count == limit:
                        break
        finally:
            await broker.stop()
        return count

    return asyncio.run(visit())


def as_json(position: Position, message: Message) -> dict[str, Any]:
    """A JSON object, of whose members `bridge publish --jsonl` takes topic, key, headers and body.

    A body is an object or an array where it is JSON, else text, null for a tombstone. Bytes that are no text stand in
    base64 below the name with `_base64` behind it. A header that occurs more than once is a list.
    """
    told: dict[str, Any] = {
        "topic": position.topic,
        "partition": position.partition,
        "offset": position.offset,
        "timestamp": stamp(message),
        **({} if message.message_id is None else {"message_id": message.message_id}),
        **_member("key", message.key),
    }
    headers: dict[str, Any] = {}
    for name, value in message.headers:
        for member, text in _member(name, value).items():
            headers[member] = text if member not in headers else [*_listed(headers[member]), text]
    body = _member("body", message.body)
    return told | {"headers": headers} | {name: _parsed(text) for name, text in body.items()}


def stamp(message: Message) -> str | None:
    """The broker's time of the message, RFC 3339 in UTC."""
    if message.timestamp is None:
        return None
    return datetime.fromtimestamp(message.timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _member(name: str, value: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(value or b"").decode()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parsed(text: str | None) -> Any:
    if text is None or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
