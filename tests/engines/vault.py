"""Key Vault and its Entra ID behind a proxy: clients use the real host names and TLS."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.kafka.certificates import Authority

VAULT = "team.vault.azure.net"
LOGIN = "login.microsoftonline.com"
TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT_SECRET = "secret-of-the-client"
TOKEN = "token-of-the-vault"


class VaultServer:
    """Test server for both.

    secrets: values by `NAME/VERSION`. answer: status of every answer of the vault; 0: the regular one.
    """

    def __init__(self, directory: Path) -> None:
        self.secrets: dict[str, str] = {}
        self.answer = 0
        self.accepts_client = True
        self.requests: list[str] = []
        self.authority = Authority(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.issue("azure", hosts=(VAULT, LOGIN)))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
                pass

            def do_CONNECT(self) -> None:
                self.send_response_only(200)
                self.end_headers()
                self.connection = context.wrap_socket(self.connection, server_side=True)
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)
                self.close_connection = False

            def do_GET(self) -> None:
                outer._handle(self, "")

            def do_POST(self) -> None:
                outer._handle(self, self.rfile.read(int(self.headers["content-length"])).decode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that direct clients to this server."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._server.server_port}",
            "NO_PROXY": "",
            "REQUESTS_CA_BUNDLE": str(self.authority.file),
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": "22222222-2222-2222-2222-222222222222",
            "AZURE_CLIENT_SECRET": CLIENT_SECRET,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler, body: str) -> None:
        host, path = request.headers["host"].partition(":")[0], request.path.partition("?")[0]
        self.requests.append(f"{host}{path}")
        status, answer, headers = self._login(path, body) if host == LOGIN else self._secret(path, request.headers)
        data = json.dumps(answer).encode()
        request.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def _login(self, path: str, body: str) -> tuple[int, Any, Mapping[str, str]]:
        base = f"https://{LOGIN}/{TENANT}"
        if path.endswith("/token"):
            if not self.accepts_client or CLIENT_SECRET not in body:
                return 401, {"error": "invalid_client", "error_description": "no"}, {}
            return 200, {"token_type": "Bearer", "expires_in": 3600, "access_token": TOKEN}, {}
        if path.endswith("/discovery/instance"):
            endpoint = f"{base}/v2.0/.well-known/openid-configuration"
            return 200, {"tenant_discovery_endpoint": endpoint, "metadata": []}, {}
        return 200, {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "issuer": f"{base}/v2.0",
        }, {}  # fmt: skip

    def _secret(self, path: str, headers: Any) -> tuple[int, Any, Mapping[str, str]]:
        if headers.get("authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer authorization="https://{LOGIN}/{TENANT}", resource="https://vault.azure.net"'
            return 401, {"error": {"code": "Unauthorized"}}, {"www-authenticate": challenge}
        if self.answer:
            return self.answer, {"error": {"code": "Refused", "message": "it is refused"}}, {}
        name = path.removeprefix("/secrets/").rstrip("/")
        if name not in self.secrets:
            return 404, {"error": {"code": "SecretNotFound", "message": "no such secret"}}, {}
        return 200, {"value": self.secrets[name], "id": f"https://{VAULT}{path}", "attributes": {"enabled": True}}, {}


@contextmanager
def serving(directory: Path) -> Iterator[VaultServer]:
    server = VaultServer(directory)
    try:
        yield server
    finally:
        server.close()
