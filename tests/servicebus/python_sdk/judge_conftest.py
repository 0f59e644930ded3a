"""The conftest.py of the SDK's tests when they judge the test server; it is copied beside them."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from azure.servicebus import ServiceBusClient


def _module(name: str, **members: object) -> None:
    """A module that some test imports names from and uses little of."""
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
    """Without TLS, and so with the port of the address: the server has one of its own."""
    options.setdefault("use_tls", False)
    _init(self, *arguments, **options)


ServiceBusClient.__init__ = _plain
