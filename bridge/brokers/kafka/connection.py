"""Creation and opening of aiokafka's clients, with the cause of a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, StaleMetadata

from bridge.brokers.kafka import security
from bridge.brokers.kafka.faults import translate
from bridge.brokers.kafka.log.records import Bounds
from bridge.brokers.kafka.sdk_internals import abandon, bound_answers, starting
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.core.errors import BridgeError, BrokerUnavailable

_log = logging.getLogger(__name__)

_CLOSED = (KafkaConnectionError, NodeNotReadyError, StaleMetadata)

CLOSE_SECONDS = 5.0
"""Seconds after which a client that does not close is abandoned; with a hanging broker a client would never close."""


class Connection:
    """Arguments that all clients of one broker share."""

    def __init__(self, name: str, config: KafkaBrokerConfig, resolve: Callable[[str, str], Path]) -> None:
        self.name = name
        self.config = config
        self.bounds = Bounds(config.max_batch, config.max_records, config.max_headers)
        bound_answers(config.fetch_bytes + config.max_batch)
        self._resolve = resolve
        self._arguments: dict[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for a client. Raises: BrokerError when a certificate cannot be read."""
        if self._arguments is None:
            config = self.config
            self._arguments = {
                "bootstrap_servers": list(config.hosts),
                "client_id": config.client_id,
                "request_timeout_ms": int(config.request_timeout * 1000),
                "metadata_max_age_ms": int(config.metadata_max_age * 1000),
                **security.arguments(self.name, config, self._resolve),
            }
        return self._arguments

    async def open(self, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a client. Raises: BrokerUnavailable with the cause, which the client itself only logs."""
        causes = _Causes()
        starting()
        logger = logging.getLogger("aiokafka")
        logger.addHandler(causes)
        try:
            await start()
        except Exception as error:  # what a broker answers may break the client anywhere
            cause = causes.last or error
            if isinstance(cause, BridgeError):
                raise cause from error
            raise self.translate(cause, f"cannot connect to {','.join(self.config.hosts)}") from error
        finally:
            logger.removeHandler(causes)

    def translate(self, error: BaseException, what: str) -> BridgeError:
        """See `faults.translate`. A bug is logged and reported as BrokerUnavailable: nothing was settled."""
        found = translate(error, f"{self.name}: {what}")
        sasl = self.config.sasl
        if sasl is not None and sasl.mechanism == "OAUTHBEARER" and isinstance(error, _CLOSED):
            # The client takes the server's challenge for consent, and is disconnected at its next request
            return BrokerUnavailable(
                f"{found}; the server may have refused the token: check its audience, rights and expiry"
            )
        if found is None:
            _log.error("%s: %s failed unexpectedly", self.name, what, exc_info=error)
            found = BrokerUnavailable(f"{self.name}: {what}: unexpected {type(error).__name__}, see the log")
        return found


class _Causes(logging.Handler):
    """Log handler that stores the last exception logged as an argument."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args or ():
            if isinstance(argument, BaseException):
                self.last = argument


async def close(client: Any, seconds: float = CLOSE_SECONDS) -> None:
    """Stop a client within a time limit, and abandon it then. Never raises for errors of the client."""
    try:
        await asyncio.wait_for(client.stop() if hasattr(client, "stop") else client.close(), seconds)
    except Exception as error:  # a client that a broker's answers have broken
        _log.warning("a Kafka client did not close cleanly: %s", type(error).__name__)
    finally:
        abandon(client)
