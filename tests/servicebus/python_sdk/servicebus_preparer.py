"""Decorators with which the SDK's tests request entities; this version creates them on the test server.

Two environment variables locate the server: SERVICEBUS_CONNECTION, its connection string, and SERVICEBUS_CONTROL, its
control port.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import os
import socket
import time
import urllib.parse
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_SETTINGS = dict(part.split("=", 1) for part in os.environ["SERVICEBUS_CONNECTION"].split(";") if part)
HOST = _SETTINGS["Endpoint"].removeprefix("sb://").strip("/")
NAMESPACE, _, _PORT = HOST.partition(":")
SERVICEBUS_ENDPOINT_SUFFIX = f":{_PORT}"
"""Suffix that the tests append to the name of the namespace."""

KEY_NAME, KEY = _SETTINGS["SharedAccessKeyName"], _SETTINGS["SharedAccessKey"]
RIGHTS = ("Send", "Listen", "Manage")


def namespace_signature() -> str:
    """Create a shared access signature for the whole namespace, valid for an hour."""
    resource, expiry = urllib.parse.quote_plus(f"sb://{HOST}/"), str(int(time.time()) + 3_600)
    digest = hmac.new(KEY.encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote_plus(base64.b64encode(digest).decode())
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={KEY_NAME}"


def _call(verb: str, /, **arguments: Any) -> None:
    """Make one control call to the server. Raises: RuntimeError with the error of the server."""
    with socket.create_connection(("127.0.0.1", int(os.environ["SERVICEBUS_CONTROL"])), 30) as control:
        control.sendall(json.dumps({"call": verb, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(control.makefile("rb").readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])


def _connection_string(name: str, key: str) -> str:
    return f"Endpoint=sb://{HOST}/;SharedAccessKeyName={name};SharedAccessKey={key};UseDevelopmentEmulator=true"


class _Preparer:
    """Decorator that adds arguments to a test.

    prefix: of the name of the created entity. use_cache: create the entity once and share it.
    """

    made: dict[tuple[Any, ...], dict[str, Any]]

    def __init__(self, name_prefix: str = "", use_cache: bool = False, **settings: Any) -> None:
        self.prefix, self.use_cache, self.settings = name_prefix, use_cache, settings

    def __init_subclass__(cls) -> None:
        cls.made = {}

    def __call__(self, test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def wrapped(*arguments: Any, **given: Any) -> Any:
            # Outer decorators have run before: namespaces before queues, topics before subscriptions
            return test(*arguments, **{**given, **self._prepared(given)})

        return wrapped

    def _prepared(self, given: dict[str, Any]) -> dict[str, Any]:
        if not self.use_cache:
            return self.make(self.name(), given)
        topic = given.get("servicebus_topic")
        key = (self.prefix, str(sorted(self.settings.items())), topic and topic.name)
        if key not in self.made:
            self.made[key] = self.make(self.name(), given)
        return self.made[key]

    def name(self) -> str:
        return f"{self.prefix}-{uuid.uuid4().hex[:12]}"

    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class ServiceBusResourceGroupPreparer(_Preparer):
    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"resource_group": SimpleNamespace(name="group"), "location": "here"}


class ServiceBusNamespacePreparer(_Preparer):
    """Provide the server itself under any requested name."""

    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "servicebus_namespace": SimpleNamespace(name=NAMESPACE),
            "servicebus_namespace_connection_string": _connection_string(KEY_NAME, KEY),
            "servicebus_namespace_key_name": KEY_NAME,
            "servicebus_namespace_primary_key": KEY,
        }


def _properties(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "LockDuration": settings.get("lock_duration", "PT30S"),
        "RequiresSession": settings.get("requires_session", False),
        "RequiresDuplicateDetection": settings.get("requires_duplicate_detection", False),
        "DeadLetteringOnMessageExpiration": settings.get("dead_lettering_on_message_expiration", False),
    }


def _create(**entities: Any) -> None:
    _call("create", document={"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", **entities}]}})


class ServiceBusQueuePreparer(_Preparer):
    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        _create(Queues=[{"Name": name, "Properties": _properties(self.settings)}])
        return {self.settings.get("parameter_name", "servicebus_queue"): SimpleNamespace(name=name)}


class ServiceBusTopicPreparer(_Preparer):
    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        _create(Topics=[{"Name": name}])
        return {"servicebus_topic": SimpleNamespace(name=name)}


class ServiceBusSubscriptionPreparer(_Preparer):
    """Recreate the topic together with its subscription."""

    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        subscription = {"Name": name, "Properties": _properties(self.settings)}
        _create(Topics=[{"Name": given["servicebus_topic"].name, "Subscriptions": [subscription]}])
        return {"servicebus_subscription": SimpleNamespace(name=name)}


class ServiceBusNamespaceAuthorizationRulePreparer(_Preparer):
    parameter = "servicebus_authorization_rule"

    def make(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        key, entity = uuid.uuid4().hex, self.entity(given)
        rights = [str(right).title() for right in self.settings.get("access_rights", RIGHTS)]
        _call("key", name=name, key=key, rights=rights, entity=entity)
        path = f";EntityPath={entity}" if entity else ""
        return {
            self.parameter: SimpleNamespace(name=name),
            f"{self.parameter}_connection_string": _connection_string(name, key) + path,
        }

    def entity(self, given: dict[str, Any]) -> str | None:
        return None


class ServiceBusQueueAuthorizationRulePreparer(ServiceBusNamespaceAuthorizationRulePreparer):
    parameter = "servicebus_queue_authorization_rule"

    def entity(self, given: dict[str, Any]) -> str | None:
        return str(given["servicebus_queue"].name)


CachedServiceBusResourceGroupPreparer = functools.partial(ServiceBusResourceGroupPreparer, use_cache=True)
CachedServiceBusNamespacePreparer = functools.partial(ServiceBusNamespacePreparer, use_cache=True)
CachedServiceBusQueuePreparer = functools.partial(ServiceBusQueuePreparer, use_cache=True)
CachedServiceBusTopicPreparer = functools.partial(ServiceBusTopicPreparer, use_cache=True)
CachedServiceBusSubscriptionPreparer = functools.partial(ServiceBusSubscriptionPreparer, use_cache=True)
