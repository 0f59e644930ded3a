"""TLS contexts, passwords and token providers, as arguments of aiokafka's clients."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.brokers.kafka.tokens import Tokens
from bridge.config.model.brokers import KafkaBrokerConfig, KafkaTlsConfig
from bridge.core.errors import BrokerError
from bridge.system.files import check_file
from bridge.system.tls import MAX_FILE


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
            given["sasl_oauth_token_provider"] = Tokens(name, config, sasl)
        else:
            given["sasl_plain_username"] = sasl.username
            given["sasl_plain_password"] = sasl.password.get_secret_value() if sasl.password else ""
    given["security_protocol"] = ("SASL_" if sasl else "") + ("SSL" if config.tls is not None else "PLAINTEXT")
    return given


def _context(name: str, tls: KafkaTlsConfig, resolve: Callable[[str, str], Path]) -> ssl.SSLContext:
    def file(field: str, value: str) -> Path:
        return check_file(resolve(field, value), MAX_FILE)

    try:
        context = ssl.create_default_context(cafile=file("ca", tls.ca) if tls.ca else None)
        if tls.certificate:
            password = tls.key_password.get_secret_value() if tls.key_password else None
            key = file("key", tls.key) if tls.key else None
            context.load_cert_chain(file("certificate", tls.certificate), key, password)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"{name}: a certificate or key below `tls` cannot be read: {error}") from error
    context.check_hostname = tls.check_hostname
    return context
