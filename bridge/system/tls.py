"""TLS certificates: of the bridge's ports, with files that are read again when they change, and of engine clients."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bridge.system.files import read_file

_log = logging.getLogger(__name__)

MAX_FILE = 1024 * 1024
"""Largest file of a certificate, a key or authorities, in bytes."""


class TlsProblem(Exception):
    """The files cannot be used for TLS. The text names the file and the cause."""


@dataclass(frozen=True, slots=True)
class Material:
    """Contents of the files as PEM, and their context. client_ca: authorities of accepted client certificates."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class ClientMaterial:
    """PEM for outgoing connections. ca: trusted authorities; None: those of the system."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


@cache
def system_context() -> ssl.SSLContext:
    """Context of outgoing connections that trusts the authorities of the system.

    The process has one, which nobody changes: to load the authorities takes 20 ms.
    """
    return ssl.create_default_context()


def client_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Context of outgoing connections, which verifies the other side.

    ca: trusted authorities; None: those of the system. key: None when it is in the certificate's file.
    Raises: TlsProblem.
    """
    if ca is None and certificate is None:
        return system_context()
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        _load_authorities(context, ca)
    if certificate is not None:
        _load_chain(context, certificate, key)
    return context


def load_client(ca: Path | None, certificate: Path | None, key: Path | None) -> ClientMaterial:
    """Read and check the files. key: None when it is in the certificate's file. Raises: TlsProblem."""
    client_context(ca, certificate, key)
    chain = None if certificate is None else _contents(certificate)
    return ClientMaterial(
        None if ca is None else _contents(ca), chain, chain if key is None or chain is None else _contents(key)
    )


class TlsFiles:
    """Certificate with its chain, key, and optionally authorities of clients. Safe to use from several threads.

    key: None when it is in the certificate's file.
    """

    def __init__(self, certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        self._state: tuple[object, ...] = ()
        self._material: Material | None = None

    @property
    def asks_clients(self) -> bool:
        """Report if clients need a certificate."""
        return self._client_ca is not None

    def load(self) -> Material:
        """Read the files. Raises: TlsProblem."""
        with self._lock:
            state = self._signature()
            self._material, self._state = self._read(), state
            return self._material

    def current(self) -> Material:
        """Current contents of the files. Unusable files are reported once, and the last good ones stay in use.

        Raises: TlsProblem when there never were good ones.
        """
        with self._lock:
            state = self._signature()
            if self._material is not None and state == self._state:
                return self._material
            try:
                self._material = self._read()
                if self._state:
                    _log.info("certificate read again: %s", self._certificate)
            except TlsProblem as problem:
                if self._material is None:
                    raise
                _log.error("the certificate in use stays, the new one cannot be used: %s", problem)
            self._state = state
            return self._material

    def _signature(self) -> tuple[object, ...]:
        found: list[object] = []
        for file in (self._certificate, self._key, self._client_ca):
            try:
                about = file.stat() if file is not None else None
            except OSError:
                about = None
            found.append(about and (about.st_mtime_ns, about.st_ino, about.st_size))
        return tuple(found)

    def _read(self) -> Material:
        certificate = _contents(self._certificate)
        key = certificate if self._key is None else _contents(self._key)
        authorities = None if self._client_ca is None else _contents(self._client_ca)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        _load_chain(context, self._certificate, self._key)
        if self._client_ca is not None:
            _load_authorities(context, self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return Material(certificate, key, authorities, context)


def serve_current(files: TlsFiles) -> ssl.SSLContext:
    """Make a context that uses the current files at every handshake. Raises: TlsProblem."""
    context = files.load().context

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        fresh = files.current().context
        if fresh is not connection.context:
            connection.context = fresh

    context.sni_callback = choose
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for file in filter(None, (certificate, key)):
        _contents(file)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise TlsProblem(
            f"{certificate}: no certificate with its key, without a password, as PEM ({_cause(error)})"
        ) from None


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    _contents(file)
    try:
        context.load_verify_locations(file)
    except (OSError, ValueError) as error:
        raise TlsProblem(f"{file}: no certificates as PEM ({_cause(error)})") from None


def _contents(file: Path) -> bytes:
    try:
        return read_file(file, MAX_FILE)
    except FileNotFoundError:
        raise TlsProblem(f"{file}: there is no such file") from None
    except OSError as error:
        raise TlsProblem(f"{file}: cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key has a password")


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return getattr(error, "strerror", None) or str(error)
