"""Checks of a webhook for `bridge doctor`. A connection is opened, and no request is made."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bridge.brokers.tls import context_of
from bridge.config.model.webhook import WebhookBrokerConfig
from bridge.core.diagnosis import CheckAnswer, Examiner, ok, problem, warning


async def diagnose(
    name: str, config: WebhookBrokerConfig, resolve: Callable[[str, str], Path], examiner: Examiner
) -> Mapping[str, float]:
    """Check the connection to a webhook, and that its receiver can verify the sender. Returns no retentions."""
    subject = f"broker {name}"

    async def reachable() -> CheckAnswer:
        parts = urlsplit(config.url)
        tls = await asyncio.to_thread(context_of, name, config.tls, resolve) if config.is_https else None
        port = parts.port or (443 if config.is_https else 80)
        try:
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
        except ssl.SSLError as error:
            return problem(
                f"{config.host}: TLS fails: {error.reason or type(error).__name__}",
                f"brokers.{name}.tls.ca: the authority of the receiver's certificate",
            )
        except OSError as error:
            return problem(f"{config.host} cannot be reached: {error.strerror or error}", f"brokers.{name}.url")
        writer.close()
        return ok(f"{config.host} accepts connections; no request was made")

    async def verification() -> CheckAnswer:
        if config.secret is None and config.token is None and not config.headers:
            return warning(
                "the receiver cannot know who sends: no signature, token or header is set", f"brokers.{name}.secret"
            )
        return ok("the receiver can verify the sender")

    await examiner.check(subject, "reachable", reachable)
    await examiner.check(subject, "verification", verification)
    return {}
