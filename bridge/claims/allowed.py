"""Places from which payloads may be fetched, as prefixes of addresses. Pure.

A sender chooses the reference, so nothing in it is trusted. A reference is compared after normalisation, and only in
the forms that leave no room for another reading: no user information, no dot segments, no encoded slashes or dots, no
backslashes, no control characters, no fragment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from bridge.core.errors import ClaimDenied
from bridge.system.addresses import is_loopback

LONGEST = 4096
"""Most characters of a reference."""

_PORTS = {"https": 443, "http": 80}
_PLAIN = re.compile(r"[!-~]+")
_ENCODED = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")


@dataclass(frozen=True, slots=True)
class PayloadAddress:
    """Normalised address.

    host, port: empty and 0 for a file. path: with its slashes. query: of a reference; a prefix has none.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def url(self) -> str:
        where = self.host if self.port == _PORTS.get(self.scheme, 0) else f"{self.host}:{self.port}"
        return f"{self.scheme}://{where}{self.path}{f'?{self.query}' if self.query else ''}"


def parse_address(text: str) -> PayloadAddress:
    """Normalised form of an address. Raises: ValueError, with a sentence that quotes nothing."""
    if len(text) > LONGEST or not _PLAIN.fullmatch(text) or "\\" in text:
        raise ValueError(f"the address is longer than {LONGEST} characters, or has characters that no address has")
    parts = urlsplit(text)
    if parts.fragment or "#" in text:
        raise ValueError("the address has a fragment")
    if _ENCODED.search(parts.path) or any(segment in (".", "..") for segment in parts.path.split("/")):
        raise ValueError("the address has dot segments, or encoded dots or slashes")
    if "//" in parts.path:
        raise ValueError("the path of the address has an empty segment")
    scheme = parts.scheme.lower()
    if scheme == "file":
        if parts.netloc or parts.query or "%" in parts.path or not parts.path.startswith("/"):
            raise ValueError("the address of a file is file:///PATH, without host, query and encoding")
        return PayloadAddress("file", "", 0, parts.path)
    if scheme not in _PORTS:
        raise ValueError("the address begins with none of https://, file:///, and http:// of this machine")
    host, port = _host(parts, scheme)
    if scheme == "http" and not is_loopback(host.strip("[]")):
        raise ValueError("http:// is only for this machine; use https://")
    return PayloadAddress(scheme, host, port, parts.path or "/", parts.query)


def _host(parts: SplitResult, scheme: str) -> tuple[str, int]:
    if "@" in parts.netloc:
        raise ValueError("the address has user information")
    try:
        name, port = parts.hostname or "", parts.port or _PORTS[scheme]
    except ValueError:
        raise ValueError("the port of the address is not a number") from None
    host = f"[{name}]" if ":" in name else name.rstrip(".")
    if not _HOST.fullmatch(host):
        raise ValueError("the host of the address is not a host name")
    return host, port


def parse_prefix(text: str) -> PayloadAddress:
    """Prefix of allowed addresses: it ends with a slash. Raises: ValueError."""
    place = parse_address(text)
    if place.query or not place.path.endswith("/"):
        raise ValueError("the prefix ends with a slash, so that it covers whole names, and has no query")
    return place


class AllowedAddresses:
    """Prefixes of one source."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        """Parse the prefixes. Raises: ValueError."""
        self._prefixes = [parse_prefix(each) for each in prefixes]

    def check(self, reference: str) -> tuple[PayloadAddress, PayloadAddress]:
        """Address that a reference names, and the prefix that allows it. Raises: ClaimDenied, without the reference."""
        try:
            place = parse_address(reference)
        except ValueError as error:
            raise ClaimDenied(f"the reference to the payload is refused: {error}") from None
        for prefix in self._prefixes:
            same = (place.scheme, place.host, place.port) == (prefix.scheme, prefix.host, prefix.port)
            if same and place.path.startswith(prefix.path) and not place.path.endswith("/"):
                return place, prefix
        where = place.host or "a file"
        raise ClaimDenied(
            f"the reference to the payload ({place.scheme}, {where}) is at no place that `claim_check.allow` names"
        )
