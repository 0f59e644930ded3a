"""TLS of the clients of brokers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from bridge.config.model.tls import ProtectedTlsConfig
from bridge.core.errors import BrokerError
from bridge.system.files import check_file
from bridge.system.tls import MAX_FILE, system_context


def context_of(name: str, tls: ProtectedTlsConfig | None, resolve: Callable[[str, str], Path]) -> ssl.SSLContext:
    """TLS context that verifies the server.

    name: of the broker. tls: None gives `system_context`, which nobody changes. resolve: from a field below `tls` and
    its value to a path. Raises: BrokerError when a certificate cannot be read.
    """

    def file(field: str, value: str) -> Path:
        return check_file(resolve(field, value), MAX_FILE)

    if tls is None:
        return system_context()
    try:
        context = ssl.create_default_context(cafile=file("ca", tls.ca) if tls.ca else None)
        if tls.certificate:
            password = tls.key_password.get_secret_value() if tls.key_password else None
            key = file("key", tls.key) if tls.key else None
            context.load_cert_chain(file("certificate", tls.certificate), key, password)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"{name}: a certificate or key below `tls` cannot be read: {error}") from error
    return context
