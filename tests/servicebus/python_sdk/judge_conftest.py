"""conftest.py for the SDK's own tests when they verify the test server; the runner copies it beside those tests."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from azure.servicebus import ServiceBusClient


def _module(name: str, **members: object) -> None:
    """Register a module from which some tests import names that they barely use."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


class _AccessRights:
    send, listen, manage = "Send", "Listen", "Manage"


_module("azure.mgmt")
_module("azure.mgmt.servicebus")
_module("azure.mgmt.servicebus.models", AccessRights=_AccessRights)
_module("azure.common", AzureHttpError=type("AzureHttpError", (Exception,), {}), AzureConflictHttpError=Exception)

_init = ServiceBusClient.__init__


@functools.wraps(_init)
def _plain(self: ServiceBusClient, *arguments: Any, **options: Any) -> None:
    """Create the client without TLS; the SDK then keeps the port of the address."""
    options.setdefault("use_tls", False)
    _init(self, *arguments, **options)


ServiceBusClient.__init__ = _plain  # type: ignore[method-assign]  # the test listens in
