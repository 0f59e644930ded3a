"""Webhook as a broker: each published message is one POST, repeated until the receiver has accepted it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from bridge.brokers.base import Features, Listener, Positions, SubscribeOptions, Subscription
from bridge.brokers.tls import context_of
from bridge.brokers.webhook.request import content_of, id_of, retry_after, signature_headers
from bridge.config.model.webhook import WebhookBrokerConfig, signing_key
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishRefused
from bridge.core.message import Message

READ_BYTES = 65536
"""Most bytes of an answer that are read, so that its connection can be used again. They are not used."""

_RETRIED = frozenset({408, 429})
"""Status codes below 500 after which a request is repeated."""


class WebhookBroker:
    """Receiver of events over HTTP. `topic` of a publish is not used: a webhook has one URL."""

    features = Features(groups=False)

    def __init__(self, name: str, config: WebhookBrokerConfig, resolve: Callable[[str, str], Path]) -> None:
        """Create a broker. resolve: from a field below `tls` and its value to a path."""
        self.name = name
        self._config = config
        self._resolve = resolve
        self._keys = [signing_key(each) for each in (config.secret, config.former_secret) if each is not None]
        self._headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        self._headers["user-agent"] = "durable-bridge"
        if config.token is not None:
            self._headers["authorization"] = f"Bearer {config.token.get_secret_value()}"
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(config.concurrent)
        self._not_before = 0.0
        """Monotonic time before which the receiver wants no request."""

    async def start(self) -> None:
        """See `Broker.start`. Makes no request. Raises: BrokerError when a certificate cannot be read."""
        tls = await asyncio.to_thread(context_of, self.name, self._config.tls, self._resolve)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=self._config.concurrent),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def stop(self) -> None:
        """See `Broker.stop`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Subscription:
        """Raises: BrokerError, because a webhook has no messages to read."""
        raise BrokerError(f"{self.name}: a webhook has no messages to read")

    async def publish(self, topic: str, messages: Sequence[Message]) -> Positions:
        """See `Broker.publish`. Raises: BrokerUnavailable, PublishRefused."""
        for message in messages:
            content = content_of(message)
            body = message.body or b""
            if len(body) > self._config.max_body:
                raise PublishRefused(
                    f"{self.name}: the event has {len(body):,} bytes; `max_body` allows {self._config.max_body:,}"
                )
            await self._deliver(id_of(message), content, body)
        return None

    async def _deliver(self, message_id: str, content: Mapping[str, str], body: bytes) -> None:
        retry = self._config.retry
        for attempt in range(1, retry.attempts + 1):
            await self._allowed()
            try:
                async with self._slots:
                    await self._post(message_id, content, body)
            except BrokerUnavailable:
                if attempt == retry.attempts:
                    raise
            else:
                return
            # Full jitter: receivers that come back are not met by all senders at once
            await asyncio.sleep(random.uniform(0, min(retry.max, retry.first * 2 ** (attempt - 1))))  # noqa: S311 - no secret

    async def _allowed(self) -> None:
        """Wait for the time that the receiver has named."""
        if (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)
            await self._allowed()

    async def _post(self, message_id: str, content: Mapping[str, str], body: bytes) -> None:
        """Make one request. Raises: BrokerUnavailable, PublishRefused."""
        if self._session is None:
            raise BrokerUnavailable(f"{self.name}: is not started")
        now = time.time()
        headers = {**content, **self._headers, **dict(signature_headers(message_id, int(now), body, self._keys))}
        where = f"{self.name}: {self._config.host}"
        try:
            async with self._session.post(
                self._config.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status, asked = answer.status, retry_after(answer.headers, now)
                # The rest of a longer answer closes the connection
                await answer.content.read(READ_BYTES)
        except TimeoutError:
            raise BrokerUnavailable(f"{where} did not answer within {self._config.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # The text of other errors may contain the URL
            cause = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise BrokerUnavailable(f"{where} cannot be reached: {cause}") from None
        if 200 <= status < 300:
            return
        if status in _RETRIED or status >= 500:
            if asked is not None:
                self._not_before = time.monotonic() + min(asked, self._config.retry.max_retry_after)
            raise BrokerUnavailable(f"{where} answers with status {status}")
        if 300 <= status < 400:
            raise PublishRefused(f"{where} redirects (status {status}); set `url` to the new address")
        raise PublishRefused(f"{where} refuses the event with status {status}; check `url`, `secret` and `token`")
