# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn>=0.30", "aiokafka>=0.12"]
# ///
"""Order service: each order and its event are one transaction, and a task publishes the events to Kafka.

Run it with `uv run orders.py`, or with `python orders.py` where the packages above are installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import uvicorn
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from fastapi import FastAPI
from pydantic import BaseModel

DATABASE = os.environ.get("DATABASE", "orders.db")
KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "localhost:9092")


class Order(BaseModel):
    id: str
    total: float


def event(order: Order) -> str:
    """CloudEvent of an order. Its id is stored with it: a repeated publish has the same one."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "orders",
            "type": "order.placed",
            "time": datetime.now(UTC).isoformat(),
            "data": order.model_dump(),
        }
    )


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(DATABASE)
    connection.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, total REAL NOT NULL)")
    connection.execute("CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, key TEXT, event TEXT)")
    return connection


async def publish_outbox() -> None:
    """Publish the events in their order, and delete each one when Kafka has it."""
    connection = connect()
    producer = AIOKafkaProducer(bootstrap_servers=KAFKA, acks="all", enable_idempotence=True)
    await producer.start()
    headers = [("content-type", b"application/cloudevents+json")]
    try:
        while True:
            rows = connection.execute("SELECT seq, key, event FROM outbox ORDER BY seq LIMIT 100").fetchall()
            for seq, key, value in rows:
                await producer.send_and_wait("orders", value.encode(), key=key.encode(), headers=headers)
                with connection:
                    connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
            await asyncio.sleep(0 if rows else 0.2)
    finally:
        await producer.stop()


async def keep_publishing() -> None:
    while True:
        try:
            await publish_outbox()
        except KafkaError as error:
            print(f"events wait in the outbox: {error}", flush=True)
            await asyncio.sleep(1)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_publishing())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
def place(order: Order) -> Order:
    """Store an order and its event, or neither. An order that exists already has its event."""
    with connect() as connection:
        placed = connection.execute("INSERT OR IGNORE INTO orders VALUES (?, ?)", (order.id, order.total))
        if placed.rowcount:
            connection.execute("INSERT INTO outbox (key, event) VALUES (?, ?)", (order.id, event(order)))
    return order


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
