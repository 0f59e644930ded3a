"""Allowed places of references: what a sender may write, and what is refused."""

from __future__ import annotations

import pytest

from bridge.claims.allowed import AllowedAddresses, parse_prefix
from bridge.claims.fetch import is_allowed_address
from bridge.core.errors import ClaimDenied

ALLOWED = AllowedAddresses(["https://store.example/orders/", "file:///var/payloads/", "http://127.0.0.1:8080/x/"])


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("https://store.example/orders/1.json", "https://store.example/orders/1.json"),
        ("HTTPS://Store.EXAMPLE:443/orders/1.json?sig=a%2Fb", "https://store.example/orders/1.json?sig=a%2Fb"),
        ("https://store.example./orders/a/b", "https://store.example/orders/a/b"),
        ("https://store.example/orders/a%20b", "https://store.example/orders/a%20b"),
        ("file:///var/payloads/2026/1", "file:///var/payloads/2026/1"),
        ("http://127.0.0.1:8080/x/1", "http://127.0.0.1:8080/x/1"),
    ],
)
def test_allowed(reference: str, url: str) -> None:
    assert ALLOWED.check(reference)[0].url == url


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "orders/1.json",
        "//store.example/orders/1.json",
        "http://store.example/orders/1.json",
        "https://store.example/orders",
        "https://store.example/orders/",
        "https://store.example/ordersx/1",
        "https://store.example:8443/orders/1",
        "https://store.example.evil/orders/1",
        "https://evil.example/orders/1",
        "https://store.example@evil.example/orders/1",
        "https://user:pass@store.example/orders/1",
        "https://store.example\\@evil.example/orders/1",
        "https://store.example/orders/../secret",
        "https://store.example/orders/%2e%2e/secret",
        "https://store.example/orders/%2E./secret",
        "https://store.example/orders/..%2fsecret",
        "https://store.example/orders/a%5c..",
        "https://store.example/orders//1",
        "https://store.example/orders/1#fragment",
        "https://store.example/orders/1\r\nHost: evil.example",
        "https://store.example/orders/1 ",
        "https://store.example/orders/\u2024\u2024/1",
        "https://störe.example/orders/1",
        "https://[::1]/orders/1",
        "https://store.example:x/orders/1",
        "file:///etc/passwd",
        "file:///var/payloads/../passwd",
        "file:///var/payloads/%2e%2e/passwd",
        "file://host/var/payloads/1",
        "file:///var/payloads/1?x",
        "http://127.0.0.1:8081/x/1",
        "http://169.254.169.254/x/1",
        "http://localhost:8080/x/1",
        "ftp://store.example/orders/1",
        "data:application/json,1",
        "https://store.example/orders/" + "a" * 5000,
    ],
)
def test_refused(reference: str) -> None:
    with pytest.raises(ClaimDenied) as caught:
        ALLOWED.check(reference)
    # A reference may carry a signature
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    ["https://store.example/orders", "https://store.example/?x", "http://store.example/", "/var/payloads/", "*"],
)
def test_refused_prefixes(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"address|prefix|http://"):
        parse_prefix(prefix)


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True, True),
        ("10.0.0.1", False, True),
        ("192.168.1.1", False, True),
        ("fd00::1", False, True),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:7f00:1::", False, False),
    ],
)
def test_addresses(address: str, public: bool, private: bool) -> None:
    assert is_allowed_address(address, private=False) is public
    assert is_allowed_address(address, private=True) is private
