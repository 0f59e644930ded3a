"""Key provider with data keys wrapped under a private key, which may be in hardware."""

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bridge.encryption import Key

HERE = Path(__file__).parent
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def keys() -> Iterator[Key]:
    """Yield the data keys, the newest first; their names are dates."""
    private = serialization.load_pem_private_key((HERE / "private.pem").read_bytes(), None)
    assert isinstance(private, RSAPrivateKey)
    for wrapped in sorted(HERE.glob("*.wrapped"), reverse=True):
        yield Key(wrapped.stem, private.decrypt(wrapped.read_bytes(), OAEP))
