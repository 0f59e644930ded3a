"""Shared access keys and the tokens signed with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

MANAGEMENT = "/$management"
SEND, LISTEN, MANAGE = "Send", "Listen", "Manage"
ALL = frozenset({SEND, LISTEN, MANAGE})


@dataclass(frozen=True)
class AccessKey:
    """Shared access key. entity: the queue or topic that it gives access to; None: the whole namespace."""

    name: str
    key: str
    rights: frozenset[str] = ALL
    entity: str | None = None

    def signature(self, resource: str, expiry: str) -> str:
        """Compute a signature as clients do. resource: already URL-quoted."""
        digest = hmac.new(self.key.encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    def token(self, resource: str, lifetime: float) -> str:
        """Create a token for clients that supply their own. lifetime: in seconds."""
        quoted, expiry = urllib.parse.quote_plus(resource), str(int(time.time() + lifetime))
        signature = urllib.parse.quote_plus(self.signature(quoted, expiry))
        return f"SharedAccessSignature sr={quoted}&sig={signature}&se={expiry}&skn={self.name}"


@dataclass(frozen=True)
class Grant:
    """Rights from a token. path: entity in lower case, "" for the namespace. expires: seconds since 1970."""

    path: str
    rights: frozenset[str]
    expires: float

    def covers(self, path: str) -> bool:
        """Return whether the grant covers the path; sub-paths (subscriptions, dead letters, $management) are
        included."""
        return not self.path or path == self.path or path.startswith(self.path + "/")


def check(token: str, audience_path: str, keys: Sequence[AccessKey], now: float) -> Grant:
    """Verify a token and return its grant on the audience. Raises: PermissionError with the reason."""
    scheme, _, rest = token.partition(" ")
    # The signature covers `sr` as sent: clients differ in how they quote
    sent = dict(pair.partition("=")[::2] for pair in rest.split("&"))
    fields = {name: urllib.parse.unquote_plus(value) for name, value in sent.items()}
    if scheme != "SharedAccessSignature" or not {"sr", "sig", "se", "skn"} <= fields.keys():
        raise PermissionError("MalformedToken: The token is not a shared access signature.")
    key = next((key for key in keys if key.name == fields["skn"]), None)
    expected = key.signature(sent["sr"], sent["se"]) if key else ""
    if key is None or not hmac.compare_digest(expected.encode(), fields["sig"].encode()):
        raise PermissionError("InvalidSignature: The token has an invalid signature.")
    if not fields["se"].isdecimal() or int(fields["se"]) <= now:
        raise PermissionError("ExpiredToken: The token is expired.")
    signed = Grant(node_owner(path_of(fields["sr"])), key.rights, float(fields["se"]))
    whole = Grant((key.entity or "").lower(), key.rights, float(fields["se"]))
    wanted = node_owner(audience_path)
    if not signed.covers(wanted) or not whole.covers(wanted):
        raise PermissionError(f"InvalidAudience: The token does not cover '{audience_path}'.")
    return Grant(wanted, key.rights, float(fields["se"]))


def node_owner(path: str) -> str:
    """Return the entity path in lower case, without the suffix of a $management node."""
    return path.lower().removesuffix(MANAGEMENT)


def path_of(address: str | None) -> str:
    """Return the path of an address, which is a URI or a path."""
    if not address:
        return ""
    if "://" in address:
        _, _, address = address.split("://", 1)[1].partition("/")
    return address.strip("/")
