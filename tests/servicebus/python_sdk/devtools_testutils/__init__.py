"""Replacement for the package of this name, which the SDK's tests import and no registry provides."""

from __future__ import annotations

from azure.core.credentials import AzureSasCredential
from servicebus_preparer import namespace_signature  # type: ignore[import-not-found]  # wider than its annotation, on purpose


class AzureMgmtRecordedTestCase:
    """Base of the SDK's test classes. Nothing is recorded: every test runs against the server."""


class RandomNameResourceGroupPreparer:
    """Decorator that prepares nothing."""

    def __call__(self, test: object) -> object:
        return test


def get_credential(**_: object) -> AzureSasCredential:
    """Return the credential of a live test: a signature for the whole namespace."""
    return AzureSasCredential(namespace_signature())
