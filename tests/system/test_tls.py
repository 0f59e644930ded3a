"""The context that the connections of a process share."""

from __future__ import annotations

import ssl
from pathlib import Path

from bridge.brokers.kafka.security import arguments
from bridge.brokers.servicebus.security import public_authorities
from bridge.brokers.tls import context_of
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.system.tls import client_context, system_context


def test_connections_without_settings_share_one_context() -> None:
    assert context_of("hook", None, lambda _, value: Path(value)) is client_context(None, None, None)
    for shared in (system_context(), public_authorities()):
        assert (shared.verify_mode, shared.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert public_authorities().cert_store_stats()["x509_ca"] > 10


def test_a_broker_that_checks_no_name_changes_its_own_context_only() -> None:
    settings = {"type": "kafka", "bootstrap_servers": "k:9092", "tls": {"check_hostname": False}}
    given = arguments("kafka", KafkaBrokerConfig.model_validate(settings), lambda _, value: Path(value))
    assert not given["ssl_context"].check_hostname
    assert system_context().check_hostname
