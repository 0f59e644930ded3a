"""Raw AMQP client: sends any frames, valid or invalid."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from tests.kit.waiting import TIMEOUT
from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import FALSE, NULL, TRUE, string, uint
from tests.servicebus.server.amqp.frames import AMQP_HEADER, SASL, SASL_HEADER, frame

SASL_INIT = frame(0, performatives.SASL_INIT, [encoder.symbol("ANONYMOUS"), NULL, NULL], kind=SASL)
OPEN = frame(0, performatives.OPEN, [string("raw"), string("localhost"), uint(65_536)])
BEGIN = frame(1, performatives.BEGIN, [NULL, uint(0), uint(5_000), uint(5_000)])
HANDSHAKE = SASL_HEADER + SASL_INIT + AMQP_HEADER + OPEN + BEGIN


def terminus(code: int, address: str) -> bytes:
    return encoder.described(code, encoder.sequence([string(address)]))


def attach(name: str, handle: int, address: str, *, receiver: bool) -> bytes:
    """Encode an attach of a receiver in peek-lock mode, or of a sender."""
    source, target = terminus(performatives.SOURCE, address), terminus(performatives.TARGET, address)
    role = TRUE if receiver else FALSE
    delivery_count = NULL if receiver else uint(0)
    fields = [string(name), uint(handle), role, NULL, NULL, source, target, NULL, NULL, delivery_count]
    return frame(1, performatives.ATTACH, fields)


def flow(handle: int, credit: int, delivery_count: int = 0, *, drain: bool = False) -> bytes:
    link = [uint(handle), uint(delivery_count), uint(credit), NULL, encoder.boolean(drain)]
    return frame(1, performatives.FLOW, [uint(1), uint(5_000), uint(0), uint(5_000), *link])


def transfer(handle: int, delivery_id: int, payload: bytes, *, more: bool = False) -> bytes:
    tag = encoder.binary(struct.pack(">I", delivery_id))
    fields = [uint(handle), uint(delivery_id), tag, uint(0), FALSE, encoder.boolean(more)]
    return frame(1, performatives.TRANSFER, fields, payload)


def data(body: bytes) -> bytes:
    """Encode a message that has only a body."""
    return encoder.described(0x75, encoder.binary(body))


class RawClient:
    """Client with one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def header(self) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.readexactly(8)

    async def frame(self) -> tuple[int, list[Any], bytes]:
        """Return code, fields and payload of the next non-empty frame. Raises: IncompleteReadError at the end."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                size, offset = struct.unpack(">IB3x", await self._reader.readexactly(8))
                body = (await self._reader.readexactly(size - 8))[offset * 4 - 8 :]
                if body:
                    return performatives.split(body)

    async def until(self, code: int) -> tuple[list[Any], bytes]:
        """Return fields and payload of the next frame with this code; other frames are skipped."""
        while True:
            found, fields, payload = await self.frame()
            if found == code:
                return fields, payload

    async def handshake(self) -> None:
        """Connect up to a session on channel 1."""
        await self.send(HANDSHAKE)
        assert await self.header() == SASL_HEADER
        await self.until(performatives.SASL_OUTCOME)
        assert await self.header() == AMQP_HEADER
        await self.until(performatives.BEGIN)

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def hang_up(self) -> None:
        self._writer.close()


def settle(delivery_id: int, outcome: bytes) -> bytes:
    """Encode a receiver's disposition of one delivery that requests confirmation."""
    fields = [TRUE, uint(delivery_id), uint(delivery_id), FALSE, outcome]
    return frame(1, performatives.DISPOSITION, fields)


def request(properties: dict[str, str], body: bytes) -> bytes:
    """Encode a request to a node. body: an encoded value."""
    own = [(string(name), string(value)) for name, value in properties.items()]
    return (
        encoder.described(0x73, encoder.sequence([string("request-1")]))
        + encoder.described(0x74, encoder.mapping(own))
        + encoder.described(0x77, body)
    )


def peek(count: int) -> bytes:
    """Encode a peek request to $management."""
    wish = [(string("from-sequence-number"), encoder.int64(0)), (string("message-count"), encoder.int32(count))]
    return request({"operation": "com.microsoft:peek-message"}, encoder.mapping(wish))
