"""`omegaup-queue`: what people do with queues. It prints JSON; `fleet queue` shows it.

Moving is consuming and publishing: a message is acknowledged where it was once the broker has confirmed it where it
goes. A crash in between leaves it in both places, which every consumer stands.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

from ..config import QueueToolConfig, Rabbitmq, load_file
from ..schema import ConfigError
from .consumer import PERSISTENT, QUEUE_HEADER, REASON_HEADER, TIME_HEADER, connection_parameters

OURS = (REASON_HEADER, QUEUE_HEADER, TIME_HEADER)
BROKERS = ("x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-delivery-count")
SHOWN_BYTES = 4096


@contextmanager
def opened(config: Rabbitmq) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(connection_parameters(config, "omegaup-queue"))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def counted(channel: BlockingChannel, queue: str) -> dict[str, Any]:
    """How many messages wait, and how many consumers there are."""
    method = channel.queue_declare(queue, passive=True).method
    return {"queue": queue, "messages": int(method.message_count), "consumers": int(method.consumer_count)}


def peeked(channel: BlockingChannel, queue: str, count: int) -> list[dict[str, Any]]:
    """The first messages. They go back when the channel closes; a queue with a delivery limit counts that."""
    found = []
    for _ in range(count):
        method, properties, body = channel.basic_get(queue, auto_ack=False)
        if method is None:
            break
        headers = properties.headers or {}
        death: dict[str, Any] = next(iter(headers.get("x-death") or ()), {})
        found.append(
            {
                "reason": headers.get(REASON_HEADER) or death.get("reason"),
                "rejected_at": headers.get(TIME_HEADER),
                "message_id": properties.message_id,
                "bytes": len(body),
                "body": body[:SHOWN_BYTES].decode(errors="replace"),
            }
        )
    return found


def requeued(channel: BlockingChannel, queue: str, exchange: str, key: str, count: int) -> int:
    """Move so many messages, but none twice: what is rejected again meanwhile stays. How many were moved."""
    count = min(count, counted(channel, queue)["messages"])
    for moved in range(count):
        method, properties, body = channel.basic_get(queue, auto_ack=False)
        if method is None:
            return moved
        headers = {name: value for name, value in (properties.headers or {}).items() if name not in (*OURS, *BROKERS)}
        properties.headers = headers or None
        properties.delivery_mode = PERSISTENT
        channel.basic_publish(exchange, key, body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)
    return count


def purged(channel: BlockingChannel, queue: str) -> int:
    """Throw all that waits away; how many."""
    return int(channel.queue_purge(queue).method.message_count)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="omegaup-queue", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("queues", nargs="+")
    for name in ("peek", "requeue", "purge"):
        command = commands.add_parser(name)
        command.add_argument("queue")
        if name != "purge":
            command.add_argument("--count", type=int, default=10)
        if name == "requeue":
            command.add_argument("--exchange", required=True)
            command.add_argument("--key", required=True)
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    try:
        config = load_file(QueueToolConfig, options.config)
        with opened(config.rabbitmq) as channel:
            match options.command:
                case "list":
                    answer: Any = [counted(channel, queue) for queue in options.queues]
                case "peek":
                    answer = peeked(channel, options.queue, options.count)
                case "requeue":
                    answer = requeued(channel, options.queue, options.exchange, options.key, options.count)
                case _:
                    answer = purged(channel, options.queue)
        print(json.dumps(answer))
    except ConfigError as error:
        sys.exit(f"omegaup-queue: {error}")
    except (pika.exceptions.AMQPError, OSError) as error:
        # Many of pika's errors have no text of their own.
        sys.exit(f"omegaup-queue: {type(error).__name__}: {error or 'no reason given'}")
