"""Checks of a Service Bus namespace for `bridge doctor`.

They receive and send nothing: links are opened without credit, and messages are peeked at, which costs no delivery.
No session is taken. The settings of entities need the right to manage them, which the bridge itself does not need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

from bridge.brokers.base import OUTAGE
from bridge.brokers.servicebus.connection import SDK_ERRORS, Connection
from bridge.brokers.servicebus.entity import EntityPath
from bridge.brokers.servicebus.security import NamespaceAccess
from bridge.config.model.brokers import TargetConfig
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.model.types import format_duration
from bridge.core.diagnosis import CheckAnswer, Examiner, not_checked, ok, problem, warning, worst
from bridge.core.errors import BrokerError, BrokerUnavailable

RECEIVER, SENDER, OWNER = (
    "Azure Service Bus Data Receiver",
    "Azure Service Bus Data Sender",
    "Azure Service Bus Data Owner",
)
"""Roles to read, to publish, and to read the settings of entities."""

LOCK = 30.0
"""Shortest lock duration in seconds that leaves room for pauses of the process and the network."""
DELIVERIES = 10
"""Least max delivery count that leaves room for crashes."""
_TOLERANCE = 1.0
"""Difference of the clocks in seconds that is not reported."""


async def diagnose(
    name: str,
    config: ServiceBusBrokerConfig,
    resolve: Callable[[str, str], Path],
    sources: Mapping[str, SourceConfig],
    targets: Mapping[str, TargetConfig],
    examiner: Examiner,
) -> dict[str, float]:
    """Check a namespace, and what the sources and targets need there.

    resolve: from a field below `tls` and its value to a path.
    Returns the time to live in seconds of each source's messages, where known and limited.
    """
    limited = config.model_copy(update={"request_timeout": min(config.request_timeout, examiner.seconds)})
    subject = f"broker {name}"
    try:
        access = NamespaceAccess(name, limited, resolve)
    except BrokerError as error:
        examiner.record(subject, "access", problem(str(error), f"correct `brokers.{name}`"))
        return {}
    connection = Connection(name, limited, access)
    checks = _Checks(subject, connection, examiner, resolve)
    try:
        return await checks.run(sources, targets)
    finally:
        await connection.stop()


class _Checks:
    """Checks of one namespace, one after another."""

    def __init__(
        self, subject: str, connection: Connection, examiner: Examiner, resolve: Callable[[str, str], Path]
    ) -> None:
        self._subject = subject
        self._connection = connection
        self._examiner = examiner
        self._resolve = resolve
        self._behind: list[tuple[str, float]] = []
        """Entities with a message of the future, and by how many seconds."""
        self._peeked = 0
        self._lifetimes: dict[str, float] = {}
        """Seconds that the messages of a source live."""

    async def run(self, sources: Mapping[str, SourceConfig], targets: Mapping[str, TargetConfig]) -> dict[str, float]:
        for name, source in sources.items():
            check = "sessions" if source.sessions is not None else "readable"
            await self._examiner.check(f"source {name}", check, partial(self._read, name, source))
        publishes = {f"target {name}": target.address for name, target in targets.items()}
        dead_letters = {
            f"source {name}": source.dead_letter.replace("{topic}", EntityPath.parse(source.origins[0]).name)
            for name, source in sources.items()
            if source.dead_letter is not None
        }
        for owner, entity in (*publishes.items(), *dead_letters.items()):
            check = "dead letters writable" if owner in dead_letters else "writable"
            await self._examiner.check(owner, check, partial(self._write, entity))
        await self._settings(sources)
        self._examiner.record(self._subject, "clock", self._clock())
        return self._lifetimes

    # -- rights

    async def _read(self, name: str, source: SourceConfig) -> CheckAnswer:
        path = source.origins[0]
        link = self._connection.receiver(EntityPath.parse(path), 0)
        try:
            await self._connection.open(link, f"open {path}", self._connection.config.request_timeout)
        except BrokerError as error:
            if "sessions" in str(error):
                if source.sessions is not None:
                    return ok(f"{path} requires sessions, and may be read")
                return problem(f"{path} requires sessions", f"sources.{name}.sessions: true")
            return self._refused(error, RECEIVER, "Listen", path)
        try:
            if source.sessions is not None:
                return problem(
                    f"{path} has no sessions",
                    f"remove sources.{name}.sessions, or create the entity again with `--enable-session true`",
                )
            found = await link.peek_messages(1)
        except SDK_ERRORS as error:
            raise self._connection.translate(error, f"peek at {path}", path=path) from error
        finally:
            await self._connection.close(link)
        for message in found:
            self._peeked += 1
            if message.enqueued_time_utc is not None:
                ahead = message.enqueued_time_utc.timestamp() - time.time()
                if ahead > _TOLERANCE and message.scheduled_enqueue_time_utc is None:
                    self._behind.append((path, ahead))
        return ok(f"{path} may be read{'' if found else ' and is empty'}")

    async def _write(self, entity: str) -> CheckAnswer:
        link = self._connection.sender(entity)
        try:
            await self._connection.open(link, f"open {entity}", self._connection.config.request_timeout)
        except BrokerError as error:
            return self._refused(error, SENDER, "Send", entity)
        await self._connection.close(link)
        return ok(f"{entity} may be written")

    def _refused(self, error: BrokerError, role: str, claim: str, path: str) -> CheckAnswer:
        text = str(error)
        config, entity = self._connection.config, EntityPath.parse(path)
        where = self._connection.access.namespace.partition(".")[0]
        space = f"--namespace-name {where}"
        if "a right is missing" in text or "refused the credentials" in text:
            if config.connection_string is not None or config.sas is not None:
                rule = (
                    f"az servicebus queue authorization-rule update {space} --queue-name {entity.name} "
                    f"--name POLICY --rights {claim}    # or a policy of the namespace"
                )
                return problem(f"the policy lacks {claim} on {path}, or its key is wrong", rule)
            grant = (
                f'az role assignment create --role "{role}" --assignee PRINCIPAL_ID --scope '
                f"/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.ServiceBus/namespaces/{where}"
            )
            return problem(f"the role {role} on {path} is missing", grant)
        if "no queue" in text or "no subscription" in text:
            created = f"az servicebus queue create {space} --resource-group GROUP --name {entity.name}"
            if entity.subscription is not None:
                created = (
                    f"az servicebus topic subscription create {space} --resource-group GROUP "
                    f"--topic-name {entity.name} --name {entity.subscription}"
                )
            return problem(text, created)
        return problem(text, f"correct `brokers.{self._connection.name}`, or the network")

    # -- settings of entities

    async def _settings(self, sources: Mapping[str, SourceConfig]) -> None:
        if not sources:
            return
        client = self._connection.access.administration(self._resolve)
        if client is None:
            for name in sources:
                self._examiner.record(
                    f"source {name}",
                    "entity settings",
                    not_checked("an emulator or a ready token has no management here"),
                )
            return
        async with client:
            for name, source in sources.items():
                await self._examiner.check(
                    f"source {name}",
                    "entity settings",
                    partial(self._managed, client, name, source),
                )

    async def _managed(self, client: Any, name: str, source: SourceConfig) -> CheckAnswer:
        path = EntityPath.parse(source.origins[0])
        need = not_checked(
            "the settings of the entity need a right that the bridge itself does not need: "
            f"the role {OWNER}, or a policy with Manage",
            f"az servicebus queue show --name {path.name}    # as a person who may",
        )
        try:
            if path.subscription is None:
                found = await client.get_queue(path.name)
            else:
                found = await client.get_subscription(path.name, path.subscription)
        except ClientAuthenticationError:
            return need
        except ResourceNotFoundError:
            return problem(f"no entity {source.origins[0]}", f"az servicebus queue create --name {path.name}")
        except HttpResponseError as error:
            if error.status_code in (401, 403):
                return need
            raise BrokerUnavailable(f"the management answers {error.status_code}") from error
        except SDK_ERRORS as error:
            return not_checked(f"the management cannot be reached ({type(error).__name__})")
        return worst(list(self._judged(name, source, found, path)), _summary(found))

    def _judged(self, name: str, source: SourceConfig, found: Any, path: EntityPath) -> Iterator[CheckAnswer]:
        kind = "queue" if path.subscription is None else f"topic subscription --topic-name {path.name}"
        update = f"az servicebus {kind} update --name {path.subscription or path.name}"
        lock = _seconds(found.lock_duration)
        if lock is not None and lock < LOCK and source.sub_queue is None:
            yield warning(
                f"lock duration {format_duration(lock)}: a short pause loses locks", f"{update} --lock-duration PT1M"
            )
        if found.max_delivery_count is not None and found.max_delivery_count < DELIVERIES and source.sub_queue is None:
            yield warning(
                f"max delivery count {found.max_delivery_count}: crashes dead-letter good messages",
                f"{update} --max-delivery-count {DELIVERIES}",
            )
        if found.requires_session is not None and found.requires_session is not (source.sessions is not None):
            yield problem(
                f"the entity {'requires' if found.requires_session else 'has no'} sessions",
                f"sources.{name}.sessions: {'true' if found.requires_session else 'false'}",
            )
        lifetime = _seconds(found.default_message_time_to_live)
        if lifetime is None:
            return
        self._lifetimes[name] = lifetime
        if not found.dead_lettering_on_message_expiration and source.sub_queue is None:
            yield warning(
                f"messages expire unseen after {format_duration(lifetime)}",
                f"{update} --enable-dead-lettering-on-message-expiration true",
            )
        if lifetime < OUTAGE:
            yield warning(
                f"messages live for {format_duration(lifetime)}: a longer outage loses messages",
                f"{update} --default-message-time-to-live P14D",
            )

    def _clock(self) -> CheckAnswer:
        if self._behind:
            path, ahead = max(self._behind, key=lambda each: each[1])
            return warning(
                f"a message of {path} is {ahead:.0f} s from the future: this clock is behind the service's",
                "chronyc makestep    # or correct the clock with the NTP client of this machine",
            )
        if not self._peeked:
            return not_checked("the service reports its time only with messages, and no message can be peeked at")
        return ok("no message is from the future")


def _seconds(value: Any) -> float | None:
    """Duration in seconds; None for none, or for one that means no limit."""
    if not isinstance(value, timedelta) or value > timedelta(days=36_500):
        return None
    return value.total_seconds()


def _summary(found: Any) -> str:
    lock, lifetime = _seconds(found.lock_duration), _seconds(found.default_message_time_to_live)
    return (
        f"lock duration {'?' if lock is None else format_duration(lock)}, max delivery count "
        f"{found.max_delivery_count}, messages live {'for ever' if lifetime is None else format_duration(lifetime)}"
    )
