"""TLS contexts, passwords and tokens, as arguments of aiokafka's clients."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from bridge.config.brokers import KafkaBrokerConfig, KafkaSaslConfig, KafkaTlsConfig
from bridge.errors import BrokerError, BrokerUnavailable


def arguments(name: str, config: KafkaBrokerConfig, resolve: Callable[[str, str], Path]) -> dict[str, Any]:
    """Security arguments of every client. resolve: from a field's name and its value to a path.

    Raises: BrokerError when a certificate cannot be read.
    """
    given: dict[str, Any] = {}
    if config.tls is not None:
        given["ssl_context"] = _context(name, config.tls, resolve)
    sasl = config.sasl
    if sasl is not None:
        given["sasl_mechanism"] = sasl.mechanism
        if sasl.mechanism == "OAUTHBEARER":
            given["sasl_oauth_token_provider"] = Tokens(name, sasl, config.hosts[0])
        else:
            given["sasl_plain_username"] = sasl.username
            given["sasl_plain_password"] = sasl.password.get_secret_value() if sasl.password else ""
    given["security_protocol"] = ("SASL_" if sasl else "") + ("SSL" if config.tls is not None else "PLAINTEXT")
    return given


def _context(name: str, tls: KafkaTlsConfig, resolve: Callable[[str, str], Path]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=resolve("ca", tls.ca) if tls.ca else None)
        if tls.certificate:
            password = tls.key_password.get_secret_value() if tls.key_password else None
            key = resolve("key", tls.key) if tls.key else None
            context.load_cert_chain(resolve("certificate", tls.certificate), key, password)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"{name}: a certificate or key below `tls` cannot be read: {error}") from error
    context.check_hostname = tls.check_hostname
    return context


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not typed
    """Tokens for OAUTHBEARER, asked for at every connection and kept until shortly before they expire."""

    def __init__(self, name: str, sasl: KafkaSaslConfig, host: str) -> None:
        """host: the first server, whose name the default scope is made of."""
        self._name = name
        self._sasl = sasl
        self._scope = sasl.scope or f"https://{host.rpartition(':')[0]}/.default"
        self._turn = asyncio.Lock()
        self._credential: Any = None
        self._token = ""
        self._until = 0.0

    async def token(self) -> str:
        """Raises: BrokerUnavailable when there is none."""
        async with self._turn:
            if time.time() < self._until:
                return self._token
            try:
                self._token, expires = await self._fetch()
            except BrokerError:
                raise
            except Exception as error:
                raise BrokerUnavailable(f"{self._name}: no token was given: {type(error).__name__}: {error}") from error
            self._until = expires - 60.0
            return self._token

    async def _fetch(self) -> tuple[str, float]:
        provider = self._sasl.token
        if provider == "azure":
            if self._credential is None:
                from azure.identity import DefaultAzureCredential

                client = self._sasl.client_id
                self._credential = DefaultAzureCredential(**({"managed_identity_client_id": client} if client else {}))
            given = await asyncio.to_thread(self._credential.get_token, self._scope)
            return given.token, float(given.expires_on)
        module, _, attribute = (provider or "").partition(":")
        function = getattr(importlib.import_module(module), attribute)
        if inspect.iscoroutinefunction(function):
            token, expires = await function()
        else:
            token, expires = await asyncio.to_thread(function)
        return str(token), float(expires)
