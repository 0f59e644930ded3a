"""Fetch of payloads by reference: bounded in size and time, from allowed places only.

A name may resolve to another address than its owner means to show. Addresses of the machine itself and of its link
(which cloud metadata services use) are refused, and private ones unless `private` allows them; the address that was
checked is the one that is connected to. Redirects are followed to allowed places only, and proxies of the environment
are not used.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.claims.allowed import AllowedAddresses, PayloadAddress
from bridge.config.model.claims import ClaimCheckConfig
from bridge.core.errors import ClaimDamaged, ClaimDenied, ClaimNotFound, ClaimStoreUnavailable, ClaimTooLarge
from bridge.system.addresses import is_loopback
from bridge.system.files import FileProblem, FileTooLarge, read_file
from bridge.system.threads import in_thread

MOST_REDIRECTS = 3

MOST_LATE = 4
"""Reads of files that hang, after which no further one begins: each keeps a thread until its file system answers."""

_BLOCK = 1 << 16
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_NOW = frozenset({408, 425, 429})


class RefusedAddress(OSError):
    """Reason why the address of a host is not connected to, as a sentence."""


class CheckedResolver(AbstractResolver):
    """Resolver that refuses the addresses to which no payload should lead. private: allow private ones."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host. Raises: RefusedAddress when one of them is refused; OSError."""
        found = await self._inner.resolve(host, port, family)
        for each in found:
            if not is_allowed_address(each["host"], private=self._private):
                raise RefusedAddress(
                    "the host of the reference resolves to an address of this machine, its link or a private network"
                )
        return found

    async def close(self) -> None:
        await self._inner.close()


def is_allowed_address(text: str, *, private: bool) -> bool:
    """True for an address that a host of a reference may have."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    return address.is_global or (private and address.is_private and not address.is_reserved)


@dataclass(slots=True)
class _Read:
    """State of the read of a file."""

    has_ended: bool = False
    is_late: bool = False


class PayloadFetcher:
    """Fetcher of the payloads of one source. limit: largest payload in bytes."""

    def __init__(self, config: ClaimCheckConfig, limit: int) -> None:
        """Prepare the fetcher. Raises: ValueError for a prefix that is none."""
        self._allowed = AllowedAddresses(config.allow)
        self._limit = limit
        self._seconds = config.timeout
        self._private = config.private
        self._lock = threading.Lock()
        self._late = 0
        """Threads that still read a file although nobody waits for it."""

    async def fetch(self, reference: str, digest: str | None = None) -> bytes:
        """Fetch a payload. digest: its SHA-256 as hexadecimal digits; None: it is not checked.

        Raises: ClaimDenied, ClaimNotFound, ClaimTooLarge, ClaimDamaged (messages that can never succeed);
        ClaimStoreUnavailable (an outage).
        """
        place, prefix = self._allowed.check(reference)
        if digest is not None and not _DIGEST.fullmatch(digest):
            raise ClaimDamaged("the digest of the payload is not 64 hexadecimal digits (SHA-256)")
        is_file = place.scheme == "file"
        try:
            async with asyncio.timeout(self._seconds):
                found = await (self._read_in_thread(place, prefix) if is_file else self._download(place))
        except TimeoutError:
            raise ClaimStoreUnavailable(
                f"{f'the directory {prefix.path}' if is_file else place.host} did not give the payload within "
                f"{self._seconds:g} s (`claim_check.timeout`)"
            ) from None
        if digest is not None:
            actual = await asyncio.to_thread(lambda: hashlib.sha256(found).hexdigest())
            if not hmac.compare_digest(actual, digest.lower()):
                raise ClaimDamaged("the payload has another digest than the message states")
        return found

    async def _read_in_thread(self, place: PayloadAddress, prefix: PayloadAddress) -> bytes:
        if self._late >= MOST_LATE:
            raise ClaimStoreUnavailable(
                f"{self._late} earlier reads of files have not ended within `claim_check.timeout`; does the file "
                f"system of {prefix.path} answer?"
            )
        state = _Read()

        def read() -> bytes:
            try:
                return self._read(place, prefix)
            finally:
                with self._lock:
                    state.has_ended = True
                    self._late -= state.is_late

        try:
            return await in_thread(read)
        finally:
            with self._lock:
                if not state.has_ended:
                    state.is_late = True
                    self._late += 1

    def _read(self, place: PayloadAddress, prefix: PayloadAddress) -> bytes:
        # Links may lead elsewhere: both ends are compared as they are on the disk
        try:
            root = Path(prefix.path).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            what = f"the directory {prefix.path} of `claim_check.allow` cannot be found: {_cause(error)}"
            raise ClaimStoreUnavailable(what) from error
        try:
            real = Path(place.path).resolve(strict=True)
        except PermissionError:
            raise self._unreadable(root) from None
        except (OSError, RuntimeError) as error:
            if not _is_of_reference(error):
                raise ClaimStoreUnavailable(f"the file of the reference cannot be found: {_cause(error)}") from error
            raise ClaimNotFound(f"there is no file at the place of the reference: {_cause(error)}") from None
        if not real.is_relative_to(root):
            raise ClaimDenied("the file of the reference is a link out of the places that `claim_check.allow` names")
        try:
            return read_file(real, self._limit)
        except FileTooLarge:
            raise self._too_large() from None
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileProblem) as error:
            raise ClaimNotFound(f"there is no readable file at the place of the reference: {_cause(error)}") from None
        except PermissionError:
            raise self._unreadable(root) from None
        except OSError as error:
            raise ClaimStoreUnavailable(f"the file of the reference cannot be read: {_cause(error)}") from error

    async def _download(self, place: PayloadAddress) -> bytes:
        # A literal loopback address is connected to because the configuration names it
        resolver = None if is_loopback(place.host.strip("[]")) else CheckedResolver(private=self._private)
        connector = aiohttp.TCPConnector(resolver=resolver, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._seconds)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            for _ in range(MOST_REDIRECTS + 1):
                try:
                    async with session.get(place.url, allow_redirects=False) as answer:
                        if answer.status not in _REDIRECTS:
                            return await self._body(answer, place)
                        target = answer.headers.get("Location", "")
                except aiohttp.ClientConnectorCertificateError as error:
                    cause = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
                    raise ClaimStoreUnavailable(f"the certificate of {place.host} is not trusted: {cause}") from None
                except aiohttp.ClientConnectorError as error:
                    if isinstance(error.os_error, RefusedAddress):
                        raise ClaimDenied(str(error.os_error)) from None
                    raise ClaimStoreUnavailable(f"{place.host} cannot be reached ({type(error).__name__})") from None
                except (aiohttp.ClientError, OSError) as error:
                    raise ClaimStoreUnavailable(f"{place.host} does not answer ({type(error).__name__})") from None
                place = self._redirected(place, target)
            raise ClaimDenied(f"the place of the payload redirects more than {MOST_REDIRECTS} times")

    def _redirected(self, place: PayloadAddress, target: str) -> PayloadAddress:
        if target.startswith("/") and not target.startswith("//"):
            target = f"{place.url[: -len(place.path) - (len(place.query) + 1 if place.query else 0)]}{target}"
        found, _ = self._allowed.check(target)
        if found.scheme != place.scheme or (found.host != place.host and is_loopback(found.host.strip("[]"))):
            raise ClaimDenied("the place of the payload redirects to another scheme, or to this machine")
        return found

    async def _body(self, answer: aiohttp.ClientResponse, place: PayloadAddress) -> bytes:
        status = answer.status
        if status in (404, 410):
            raise ClaimNotFound(f"{place.host} has no such payload ({status})")
        if status >= 500 or status in _NOT_NOW:
            raise ClaimStoreUnavailable(f"{place.host} answers {status}")
        if status != 200:
            raise ClaimDenied(f"{place.host} refuses the payload ({status})")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ClaimDamaged(f"{place.host} sends the payload in an encoding that was not asked for")
        if (answer.content_length or 0) > self._limit:
            raise self._too_large()
        blocks: list[bytes] = []
        size = 0
        async for block in answer.content.iter_chunked(_BLOCK):
            size += len(block)
            if size > self._limit:
                raise self._too_large()
            blocks.append(block)
        return b"".join(blocks)

    @staticmethod
    def _unreadable(root: Path) -> ClaimDenied | ClaimStoreUnavailable:
        """Error for a file that may not be read. root: directory that the configuration names."""
        if not os.access(root, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            return ClaimStoreUnavailable(f"the user of the daemon has no access to {root} of `claim_check.allow`")
        return ClaimDenied("the file of the reference cannot be read by the user of the daemon")

    def _too_large(self) -> ClaimTooLarge:
        return ClaimTooLarge(f"the payload has more than the {self._limit} bytes that limits.max_payload allows")


_NO_SUCH_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
"""Errors that the path of a reference causes, also while its store is well: a sender chooses the path."""


def _is_of_reference(error: OSError | RuntimeError) -> bool:
    return not isinstance(error, OSError) or error.errno in _NO_SUCH_FILE


def _cause(error: Exception) -> str:
    return (
        (getattr(error, "strerror", None) or type(error).__name__) if isinstance(error, OSError) else "a loop of links"
    )
