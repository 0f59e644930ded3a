"""Tokens: signed for Amazon MSK, and renewed."""

from __future__ import annotations

import base64
import builtins
import hashlib
import hmac
import time
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from pydantic import ValidationError

from bridge.brokers.kafka import security
from bridge.brokers.kafka.security import Tokens
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.core.errors import BrokerError, BrokerUnavailable

KEY, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/token=="
MSK = "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com:9098"


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def provider(host: str = MSK, **sasl: Any) -> Tokens:
    settings = {"mechanism": "OAUTHBEARER", "token": "aws-msk"} | sasl
    config = KafkaBrokerConfig.model_validate({"type": "kafka", "bootstrap_servers": host, "tls": {}, "sasl": settings})
    assert config.sasl is not None
    return Tokens("msk", config, config.sasl)


def unpacked(token: str) -> tuple[str, dict[str, str]]:
    url = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    parts = urlsplit(url)
    return parts.netloc, dict(parse_qsl(parts.query, keep_blank_values=True))


def signature(host: str, query: dict[str, str]) -> str:
    """Compute the Signature Version 4 of a presigned GET, as specified."""
    date, region, service, end = query["X-Amz-Credential"].split("/")[1:]
    signed = sorted((name, value) for name, value in query.items() if name not in ("X-Amz-Signature", "User-Agent"))
    canonical = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in signed)
    request = f"GET\n/\n{canonical}\nhost:{host}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{date}/{region}/{service}/{end}\n{digest}"
    key = f"AWS4{SECRET}".encode()
    for part in (date, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


async def test_a_token_for_msk_is_a_signed_address() -> None:
    host, query = unpacked(await provider().token())
    assert host == "kafka.eu-west-1.amazonaws.com"
    assert query["Action"] == "kafka-cluster:Connect"
    assert query["X-Amz-Credential"].startswith(f"{KEY}/")
    assert query["X-Amz-Credential"].endswith("/eu-west-1/kafka-cluster/aws4_request")
    assert query["X-Amz-Security-Token"] == SESSION
    assert query["X-Amz-Signature"] == signature(host, query)
    assert SECRET not in str(query)


@pytest.mark.parametrize(
    ("host", "region", "expected"),
    [
        ("boot-x.c1.kafka-serverless.us-east-1.amazonaws.com:9098", None, "us-east-1"),
        ("kafka.internal:9098", "eu-north-1", "eu-north-1"),
        (MSK, "us-west-2", "us-west-2"),
    ],
)
async def test_the_region_is_told_or_read_from_the_name(host: str, region: str | None, expected: str) -> None:
    given, _ = unpacked(await provider(host, **({"region": region} if region else {})).token())
    assert given == f"kafka.{expected}.amazonaws.com"


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs `region`"):
        provider("kafka.internal:9098")
    with pytest.raises(ValidationError, match="`region` and `role` need `token: aws-msk`"):
        provider(token="azure", region="eu-west-1")


async def test_a_token_is_kept_until_shortly_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    it = provider()
    first = await it.token()
    assert await it.token() == first
    real = time.time
    monkeypatch.setattr(security.time, "time", lambda: real() + 900 - security.EARLY_SECONDS + 1)  # type: ignore[attr-defined]  # the test replaces what the module uses
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    second = await it.token()
    assert unpacked(second)[1]["X-Amz-Credential"].startswith("AKIDOTHER/")


async def test_no_identity_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(BrokerUnavailable, match="msk: the credential returned no token"):
        await provider().token()


async def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("aws_msk"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BrokerError, match=r"pip install .*'aws-msk-iam-sasl-signer-python"):
        await provider().token()
