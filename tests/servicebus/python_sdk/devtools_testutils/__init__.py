"""A stand-in for the package of this name, which the SDK's tests import and no registry has."""

from __future__ import annotations

from azure.core.credentials import AzureSasCredential
from servicebus_preparer import namespace_signature


class AzureMgmtRecordedTestCase:
    """The base of the test classes. Nothing is recorded: every test runs against the server."""


class RandomNameResourceGroupPreparer:
    """A decorator that prepares nothing."""

    def __call__(self, test: object) -> object:
        return test


def get_credential(**_: object) -> AzureSasCredential:
    """The credential of a live test: a signature for the whole namespace."""
    return AzureSasCredential(namespace_signature())
