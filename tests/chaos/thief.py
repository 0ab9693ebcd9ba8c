"""Somebody with every password that lies on a client host: tries each at each door that the host has, and says what
came of it.

As a process: `python -m tests.chaos.thief` with its orders (JSON) on standard input, inside the host's network; through
the host's own HAProxy, as its services go. Nothing that it tries changes anything, whether it is refused or not.
Nothing here imports pyinfra, whose gevent would make one thread of all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import pymysql
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.model.catalog import PROXY_ADDRESS, SERVICES
from tests.chaos.load import SERVICES_CODE, frontend_tls

TIMEOUT = 5
ALLOWED, REFUSED = "allowed", "refused"

REDIS_TRIES: Mapping[str, tuple[str, ...]] = {
    "change the configuration": ("CONFIG", "SET", "slowlog-max-len", "128"),
    "list all keys by a script": ("EVAL", "return redis.call('KEYS','*')", "0"),
    "write the configuration down": ("CONFIG", "REWRITE"),
    "read the configuration": ("CONFIG", "GET", "masterauth"),
    "see who there is": ("ACL", "LIST"),
    "make an account": ("ACL", "SETUSER", "app", "+ping"),
    "follow another server": ("REPLICAOF", "127.0.0.1", "no-port"),
    "read everything as a replica": ("REPLCONF", "listening-port", "0"),
    "stop the server": ("SHUTDOWN", "ABORT"),
    "make it sleep": ("DEBUG", "SLEEP", "0"),
    "load a module": ("MODULE", "LOAD", "/nonexistent"),
    "see what others do": ("CLIENT", "LIST"),
    "list all keys": ("KEYS", "*"),
    "read a key of nobody": ("GET", "chaos:thief"),
    "write a key of nobody": ("EXPIRE", "chaos:thief", "1"),
}
"""What an account of a client has no business with. Where one is allowed, it changes nothing all the same."""
NO_PERMISSION = ("noperm", "no permissions", "command not allowed", "can't run this command")
"""In Redis' words: by an ACL, to everybody, in a script."""


DESTRUCTIVE = (
    "FLUSHALL", "FLUSHDB", "SHUTDOWN", "REPLICAOF NO ONE", "FAILOVER", "SWAPDB 0 1", "MIGRATE x 1 k 0 1",
    "ACL DELUSER app", "CONFIG RESETSTAT", "BGREWRITEAOF", "PSYNC ? -1", "MONITOR",
)  # fmt: skip
"""Commands that are asked about (ACL DRYRUN), not tried."""


def statements(database: str) -> tuple[str, ...]:
    """What no grant of the application gives. All but the first three would leave everything as it is."""
    return (
        f"CREATE TABLE {database}.chaos_thief (n INT)", "CREATE DATABASE chaos_thief", "CREATE USER thief@'192.0.2.1'",
        "GRANT SELECT ON *.* TO CURRENT_USER", "SELECT * FROM mysql.user LIMIT 1",
        "SELECT * FROM mysql.global_priv LIMIT 1", "SET GLOBAL slow_launch_time = @@slow_launch_time",
        "SET GLOBAL read_only = @@read_only", "SHOW BINARY LOGS", "SHOW SLAVE STATUS", "FLUSH TABLES",
        "SELECT 1 INTO OUTFILE '/tmp/chaos-thief'", "CREATE FUNCTION chaos_thief RETURNS STRING SONAME 'x.so'",
        f"DROP TABLE {database}.chaos_no_such_table", f"ALTER TABLE {database}.Schools COMMENT ''",
        f"CREATE TRIGGER {database}.chaos_thief BEFORE INSERT ON {database}.Schools FOR EACH ROW SET @x = 1",
    )  # fmt: skip


def place(service: str, port: str) -> tuple[str, int]:
    """Where a client host finds a service."""
    return PROXY_ADDRESS, SERVICES[service].port(port).number


def _redis(orders: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`INSTANCE USER` of each login that succeeds -> what it may."""
    found: dict[str, dict[str, str]] = {}
    for instance, users in orders["redis"].items():
        address, port = place("redis", instance)
        for user in users:
            for password in orders["passwords"]:
                client = redis.Redis(
                    address, port, username=user, password=password, socket_timeout=TIMEOUT,
                    socket_connect_timeout=TIMEOUT, decode_responses=True, retry=Retry(NoBackoff(), 0),
                )  # fmt: skip
                with contextlib.suppress(redis.exceptions.AuthenticationError), contextlib.closing(client):
                    found[f"{instance} {user}"] = {what: _said(client, words) for what, words in REDIS_TRIES.items()}
    return found


def _said(client: redis.Redis, words: Sequence[str]) -> str:
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except redis.exceptions.AuthenticationError:
        raise
    except redis.exceptions.ResponseError as error:
        # Any other error is the command's own: it was let through.
        return REFUSED if any(words in str(error).lower() for words in NO_PERMISSION) else f"{ALLOWED}: {error}"
    return ALLOWED


def _amqp(orders: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """User of each login that succeeds -> what it may do with each exchange and queue, and what with others."""
    found: dict[str, dict[str, str]] = {}
    for user in orders["amqp"]["users"]:
        for password in orders["passwords"]:
            try:
                _connected(user, password).close()
            except pika.exceptions.AMQPError:
                continue
            found[user] = dict(_amqp_tries(user, password, orders["amqp"]))
    return found


def _connected(user: str, password: str) -> Any:
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            *place("rabbitmq", "amqp"), credentials=pika.PlainCredentials(user, password),
            socket_timeout=TIMEOUT, stack_timeout=TIMEOUT, blocked_connection_timeout=TIMEOUT,
        )
    )  # fmt: skip


def _amqp_tries(user: str, password: str, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    nowhere = "chaos-thief"
    tries: dict[str, Any] = {
        f"make queue {nowhere}": lambda one: one.queue_declare(nowhere, auto_delete=True),
        f"make exchange {nowhere}": lambda one: one.exchange_declare(nowhere, auto_delete=True),
        # A key under which nothing is bound: what is let through goes nowhere.
        "write exchange (the broker's own)": lambda one: one.basic_publish("amq.direct", nowhere, b""),
        "write exchange (the default)": lambda one: one.basic_publish("", nowhere, b""),
    }
    for name in names["exchanges"]:
        tries[f"write exchange {name}"] = lambda one, name=name: one.basic_publish(name, nowhere, b"")
        tries[f"delete exchange {name}"] = lambda one, name=name: one.exchange_delete(name, if_unused=True)
    for name in names["queues"]:
        # An empty answer or a message, which goes back with the channel: both mean that it may.
        tries[f"read queue {name}"] = lambda one, name=name: one.basic_get(name, auto_ack=False)
    for name in names["queues"]:
        tries[f"bind queue {name}"] = lambda one, name=name: one.queue_bind(name, "amq.direct", nowhere)
    for what, act in tries.items():
        connection = _connected(user, password)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            act(channel)
            yield what, ALLOWED
        except pika.exceptions.UnroutableError:
            yield what, ALLOWED
        except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker) as error:
            yield what, REFUSED if error.reply_code in {403, 530} else f"{ALLOWED}: {error}"
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()


def _mysql(orders: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """User of each login that succeeds -> its grants, and what came of what no grant of its gives."""
    found: dict[str, dict[str, Any]] = {}
    address, port = place("mysql", "mysql")
    for user in orders["mysql"]["users"]:
        for password in orders["passwords"]:
            try:
                connection = pymysql.connect(
                    host=address, port=port, user=user, password=password,
                    connect_timeout=TIMEOUT, read_timeout=TIMEOUT, write_timeout=TIMEOUT, autocommit=True,
                    ssl=frontend_tls(Path(orders["ssl"])) if orders.get("ssl") else None,
                )  # fmt: skip
            except pymysql.err.OperationalError as error:
                if error.args[0] in {1045, 1130, 1698}:
                    continue
                raise
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute("SHOW GRANTS")
                grants = [str(row[0]) for row in cursor.fetchall()]
                tries = {statement: _done(cursor, statement) for statement in orders["mysql"]["statements"]}
            found[user] = {"grants": grants, "tries": tries}
    return found


OF_PRIVILEGES = frozenset({1044, 1045, 1142, 1143, 1227, 1290, 1370, 1419})
"""1045: of a file. 1290: no such option for anybody. 1419: a trigger, with a binary log. The others in general."""


def _done(cursor: Any, statement: str) -> str:
    try:
        cursor.execute(statement)
    except pymysql.err.MySQLError as error:
        return REFUSED if error.args[0] in OF_PRIVILEGES else f"{ALLOWED}: {error}"
    return ALLOWED


def _main() -> None:
    orders = json.loads(sys.stdin.read())
    print(json.dumps({"redis": _redis(orders), "amqp": _amqp(orders), "mysql": _mysql(orders)}))


def tried(enter: Sequence[str], orders: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What came of it, by kind of server, where `enter` leads into a host's network."""
    done = subprocess.run(
        [*enter, sys.executable, "-m", "tests.chaos.thief"],
        input=json.dumps(orders), text=True, capture_output=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(SERVICES_CODE)},
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    _main()
