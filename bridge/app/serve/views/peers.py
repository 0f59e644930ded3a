"""Client for the questions of `bridge.ops.peers`: asks daemons at the addresses that they have registered."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import ResolveResult

from bridge.app.operations.client import bounded_body
from bridge.encryption import Keyring
from bridge.ops.peers import PEER, PeerRefusal, Question
from bridge.system.addresses import is_loopback

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes of the longest answer that is read."""
CONNECT_SECONDS = 4.0
"""Seconds for a connection, with its TLS. The kernel accepts those to a frozen process."""
_MOST = 32
"""Most daemons that are asked at a time."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Daemon that is registered on the engine. url: its address."""

    id: str
    url: str


class PeerClient:
    """Client of other daemons."""

    def __init__(self, keyring: Keyring, own_url: Callable[[], str | None], tls: ssl.SSLContext, name: str | None):
        """Create the client.

        own_url: returns the address of this daemon for others. tls: verifies their certificates.
        name: name in their certificates; None: that of their address.
        """
        self._keyring = keyring
        self._own_url = own_url
        self._tls = tls
        self._name = name
        self._asking = asyncio.Semaphore(_MOST)

    async def ask(self, peer: Peer, name: str, given: Mapping[str, Any]) -> Any:
        """Answer of a daemon to a question. The caller limits the time.

        Raises: PeerRefusal; ConnectionError without a connection; OSError, aiohttp.ClientError.
        """
        loopback = self._has_loopback()
        if not _may_ask(urlsplit(peer.url).hostname or "", loopback=loopback):
            raise PeerRefusal("it has registered an address that is not asked; set its `ops.http.peers.url`")
        question = Question(peer.id, name, given)
        is_tls = peer.url.startswith("https:")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with (
                self._asking,
                # No proxy, no cookies, no redirect, no expansion: the address comes from the engine
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(resolver=_Resolver(loopback=loopback)),
                    timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
                ) as session,
                session.post(
                    f"{peer.url}{PEER}", data=question.seal(self._keyring), allow_redirects=False,
                    ssl=self._tls if is_tls else True, server_hostname=self._name if is_tls else None,
                ) as response,
            ):  # fmt: skip
                body = await bounded_body(response, LARGEST_ANSWER)
        except aiohttp.ClientSSLError:
            raise
        except aiohttp.ClientConnectorError as error:
            raise ConnectionError(error.os_error.errno, error.os_error.strerror) from None
        except aiohttp.ConnectionTimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_SECONDS:g} s") from None
        if response.status == 403:
            raise PeerRefusal("it has other keys below `ops.http.access.sessions.keys` than this daemon")
        if response.status != 200:
            raise PeerRefusal(f"HTTP {response.status}; is a daemon with `ops.http.access.sessions.keys` there?")
        return question.read(self._keyring, body)

    def _has_loopback(self) -> bool:
        """True for a daemon whose own address for others is on this machine only, as theirs may be then."""
        return is_loopback(urlsplit(self._own_url() or "").hostname or "")


class _Resolver(aiohttp.ThreadedResolver):
    """Resolver that refuses names of addresses where no daemon is."""

    def __init__(self, *, loopback: bool) -> None:
        super().__init__()
        self._loopback = loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if not all(_may_ask(each["host"], loopback=self._loopback) for each in found):
            raise OSError(errno.EACCES, "the name leads to an address that is not asked")
        return found


def _may_ask(host: str, *, loopback: bool) -> bool:
    """False for addresses of services that only this machine or its network segment reaches. True for names."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    return loopback or not address.is_loopback
