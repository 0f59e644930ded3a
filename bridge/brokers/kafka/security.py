"""TLS contexts, passwords and token providers, as arguments of aiokafka's clients. Tokens for OAUTHBEARER come from
Entra ID, from AWS IAM for MSK, or from a user's function.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from bridge.brokers.tls import context_of
from bridge.config.model.brokers import KafkaBrokerConfig, KafkaSaslConfig
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.system.package import install_extra


def arguments(name: str, config: KafkaBrokerConfig, resolve: Callable[[str, str], Path]) -> dict[str, Any]:
    """Security arguments of every client. resolve: from a field's name and its value to a path.

    Raises: BrokerError when a certificate cannot be read.
    """
    given: dict[str, Any] = {}
    if config.tls is not None:
        given["ssl_context"] = context = context_of(name, config.tls, resolve)
        context.check_hostname = config.tls.check_hostname
    sasl = config.sasl
    if sasl is not None:
        given["sasl_mechanism"] = sasl.mechanism
        if sasl.mechanism == "OAUTHBEARER":
            given["sasl_oauth_token_provider"] = Tokens(name, config, sasl)
        else:
            given["sasl_plain_username"] = sasl.username
            given["sasl_plain_password"] = sasl.password.get_secret_value() if sasl.password else ""
    given["security_protocol"] = ("SASL_" if sasl else "") + ("SSL" if config.tls is not None else "PLAINTEXT")
    return given


EARLY_SECONDS = 60.0
"""Seconds before its expiry at which a token is no longer used."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not typed
    """Token provider that aiokafka calls for every connection. A token is kept until shortly before it expires."""

    def __init__(self, name: str, config: KafkaBrokerConfig, sasl: KafkaSaslConfig) -> None:
        self._name = name
        self._config = config
        self._sasl = sasl
        self._turn = asyncio.Lock()
        self._credential: Any = None
        self._token = ""
        self._until = 0.0

    async def token(self) -> str:
        """Return a valid token. Raises: BrokerUnavailable when none was given, BrokerError when a needed package is
        missing.
        """
        async with self._turn:
            if time.time() < self._until:
                return self._token
            try:
                self._token, expires = await self._fetch()
            except BrokerError:
                raise
            except Exception as error:
                # A user's function may quote its token in an error; errors of the cloud clients name the remedy
                own = ":" in (self._sasl.token or "")
                why = type(error).__name__ if own else f"{type(error).__name__}: {error}"
                raise BrokerUnavailable(f"{self._name}: the credential returned no token: {why}") from error
            self._until = expires - EARLY_SECONDS
            return self._token

    async def _fetch(self) -> tuple[str, float]:
        provider = self._sasl.token or ""
        if provider == "azure":
            return await asyncio.to_thread(self._azure)
        if provider == "aws-msk":
            return await asyncio.to_thread(self._aws)
        module, _, attribute = provider.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        if inspect.iscoroutinefunction(function):
            token, expires = await function()
        else:
            token, expires = await asyncio.to_thread(function)
        return str(token), float(expires)

    def _azure(self) -> tuple[str, float]:
        from azure.identity import DefaultAzureCredential

        if self._credential is None:
            client = self._sasl.client_id
            self._credential = DefaultAzureCredential(**({"managed_identity_client_id": client} if client else {}))
        host = self._config.hosts[0].rpartition(":")[0]
        given = self._credential.get_token(self._sasl.scope or f"https://{host}/.default")
        return given.token, float(given.expires_on)

    def _aws(self) -> tuple[str, float]:
        try:
            from aws_msk_iam_sasl_signer import MSKAuthTokenProvider  # type: ignore[import-untyped]  # comes without types
        except ModuleNotFoundError as error:
            raise BrokerError(f"{self._name}: `token: aws-msk` needs an extra: {install_extra('aws-msk')}") from error
        region, role = self._config.region, self._sasl.role
        if role is not None:
            token, expires_ms = MSKAuthTokenProvider.generate_auth_token_from_role_arn(region, role)
        else:
            token, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
        return token, expires_ms / 1000
