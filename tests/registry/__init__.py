"""A small schema registry over HTTP, in a thread of the test process."""

from tests.registry.server import RegistryServer

__all__ = ["RegistryServer"]
