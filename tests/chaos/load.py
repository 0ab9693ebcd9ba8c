"""Steady writers with a ledger of their own, run inside a client host's network: what was acknowledged must be there.

As a process: `python -m tests.chaos.load` with its orders (JSON) on standard input; it writes until standard input is
closed, then prints its ledger (JSON). It goes the way that the judge's own clients go: through the host's HAProxy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import redis
from omegaup_services.database import Preferring
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.model.catalog import PROXY_ADDRESS, SERVICES, SSL_DIR

SERVICES_CODE = Path(__file__).resolve().parents[2] / "files/services"

TIMEOUT = 2.0
"""Seconds that a client waits for any answer; then it begins anew on another connection."""
PAUSE = 0.02
"""Seconds between two writes of one writer."""
ALIVE = 180_000
"""Keys of one writer that have not expired: an hour's at that pace, and for longer at a slower one."""
EXCHANGE, QUEUE = "analytics", "AnalyticsQueue"
TABLE = "chaos_ledger"
USER = "omegaup"


@dataclass
class Ledger:
    """What one writer was promised: (id, time of the acknowledgement), and how often it was refused.

    `kept` are the ids that a stronger promise holds for (a session that a replica has acknowledged too).
    """

    acknowledged: list[tuple[str, float]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refusals: list[tuple[str, float]] = field(default_factory=list)

    def gap(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest time without an acknowledgement, in seconds; up to the end if none came any more."""
        times = [at for _, at in self.acknowledged if since <= at <= until]
        marks = [since or times[0], *times, *([until] if until < float("inf") else [])]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))

    def ids(self) -> set[str]:
        return {one for one, _ in self.acknowledged}


class Writer:
    """One kind of write on one connection, opened anew `again` seconds after any error."""

    again = 0.05

    def __init__(self, orders: dict[str, Any], prefix: str) -> None:
        self.orders, self.prefix = orders, prefix
        self.ledger = Ledger()
        self.connection: Any = None

    def run(self, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"{self.prefix}-{number}"
            try:
                if self.connection is None:
                    self.connection = self.connect()
                self.write(name)
                self.ledger.acknowledged.append((name, time.time()))
                self.after(name)
            except Exception as error:  # whatever a client library makes of a failover
                self.ledger.refusals.append((f"{type(error).__name__}: {error}"[:160], time.time()))
                connection, self.connection = self.connection, None
                with contextlib.suppress(Exception):
                    self.close(connection)
                stop.wait(self.again)
            stop.wait(self.orders["pause"])

    def connect(self) -> Any: ...
    def write(self, name: str) -> None: ...
    def after(self, name: str) -> None: ...

    def close(self, connection: Any) -> None:
        if connection is not None:
            connection.close()


class Sessions(Writer):
    """A session, then WAIT: what a replica has as well survives the primary."""

    instance, key = "sessions", "session:{}"

    def connect(self) -> Any:
        return redis.Redis(
            self.orders["address"], SERVICES["redis"].port(self.instance).number, username="app",
            password=self.orders["redis"], socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    def write(self, name: str) -> None:
        self.connection.set(self.key.format(name), name, ex=round(ALIVE * max(PAUSE, self.orders["pause"])))

    def after(self, name: str) -> None:
        if self.connection.execute_command("WAIT", 1, 500) >= 1:
            self.ledger.kept.append(name)


class Cache(Sessions):
    instance, key = "cache", "tags:{}"


class Messages(Writer):
    """Persistent and mandatory, with the broker's confirmation."""

    again = 0.3

    def connect(self) -> Any:
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                self.orders["address"], SERVICES["rabbitmq"].port("amqp").number,
                credentials=pika.PlainCredentials(self.orders["user"], self.orders["rabbitmq"]), socket_timeout=TIMEOUT,
                stack_timeout=TIMEOUT, blocked_connection_timeout=TIMEOUT, heartbeat=5,
            )
        )  # fmt: skip
        with self._patience(connection):
            self.channel = connection.channel()
            self.channel.confirm_delivery()
        return connection

    def write(self, name: str) -> None:
        with self._patience(self.connection):
            self.channel.basic_publish(
                EXCHANGE, QUEUE, name.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True
            )

    def close(self, connection: Any) -> None:
        # Without a word: who does not confirm does not say goodbye either.
        if connection is not None:
            connection._impl._transport.abort()

    @contextlib.contextmanager
    def _patience(self, connection: Any) -> Iterator[None]:
        """A broker that does not answer is left after the time of the others, not when its heartbeat is missed.

        By the timer of what is below the connection: its own call_later waits for the answer first.
        """
        timer = connection._impl._adapter_call_later(TIMEOUT, self._give_up)
        try:
            yield
        finally:
            connection._impl._adapter_remove_timeout(timer)

    def _give_up(self) -> None:
        raise TimeoutError("no confirmation")


def frontend_tls(folder: Path) -> ssl.SSLContext:
    """As the frontend comes to the database, but for the name: the proxy is asked by its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(folder / "frontend.crt", folder / "frontend.key")
    return context


class Rows(Writer):
    """A transaction of one row."""

    def connect(self) -> Any:
        # In plain text where that is all.
        return Preferring(
            host=self.orders["address"], port=SERVICES["mysql"].port("mysql").number, user="omegaup",
            password=self.orders["mysql"], database="omegaup", autocommit=True, connect_timeout=int(TIMEOUT),
            read_timeout=TIMEOUT, write_timeout=TIMEOUT, ssl=frontend_tls(Path(self.orders["ssl"])),
        )  # fmt: skip

    def write(self, name: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {TABLE} (id) VALUES (%s)", (name,))


KINDS: dict[str, type[Writer]] = {"sessions": Sessions, "cache": Cache, "messages": Messages, "rows": Rows}


def _drain(orders: dict[str, Any]) -> list[str]:
    """Takes everything out of the queue; what was taken twice is there twice."""
    messages = Messages(orders, "drain")
    messages.connection = messages.connect()
    taken: list[str] = []
    while True:
        method, _, body = messages.channel.basic_get(QUEUE, auto_ack=False)
        if method is None:
            messages.connection.close()
            return taken
        messages.channel.basic_ack(method.delivery_tag)
        taken.append(body.decode())


def _main() -> None:
    orders = json.loads(sys.stdin.readline())
    if not orders["kinds"]:
        print(json.dumps(_drain(orders)))
        return
    stop = threading.Event()
    writers = {kind: KINDS[kind](orders, f"{orders['run']}-{kind}") for kind in orders["kinds"]}
    threads = [threading.Thread(target=writer.run, args=(stop,), daemon=True) for writer in writers.values()]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT * 5)
    print(json.dumps({kind: vars(writer.ledger) for kind, writer in writers.items()}))


@dataclass
class Load:
    """A running load on one host; `ledgers` are there once it has ended."""

    process: subprocess.Popen[str]
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    def end(self) -> dict[str, Ledger]:
        if not self.ledgers:
            said, errors = self.process.communicate(timeout=60)
            assert self.process.returncode == 0, errors[-2000:]
            for kind, ledger in json.loads(said).items():
                self.ledgers[kind] = Ledger(
                    [(name, at) for name, at in ledger["acknowledged"]], ledger["kept"],
                    [(why, at) for why, at in ledger["refusals"]],
                )  # fmt: skip
        return self.ledgers


def _begin(
    pid: int, secret: Callable[[str], str], prefix: str, kinds: tuple[str, ...], user: str = USER, pause: float = PAUSE
) -> subprocess.Popen[str]:
    # What an earlier run of the same name has written must not stand for what this one has lost.
    run = f"{prefix}-{token_hex(4)}"
    orders = {
        "address": PROXY_ADDRESS, "run": run, "kinds": kinds, "redis": secret("redis/app"),
        "rabbitmq": secret("rabbitmq/app"), "mysql": secret("mysql/app"), "user": user,
        "ssl": f"/proc/{pid}/root{SSL_DIR}", "pause": pause,
    }  # fmt: skip
    process = subprocess.Popen(
        ["nsenter", "--target", str(pid), "--net", sys.executable, "-m", "tests.chaos.load"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SERVICES_CODE)},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.flush()
    return process


def drain(pid: int, secret: Callable[[str], str], user: str = USER) -> list[str]:
    """All messages that wait in the queue, taken out of it."""
    said, errors = _begin(pid, secret, "drain", (), user).communicate(timeout=120)
    assert said, errors[-2000:]
    taken: list[str] = json.loads(said)
    return taken


@contextlib.contextmanager
def load(
    pid: int, secret: Callable[[str], str], prefix: str, kinds: tuple[str, ...] = tuple(KINDS), seconds: float = 2.0,
    user: str = USER, pause: float = PAUSE,
) -> Iterator[Load]:  # fmt: skip
    """Load in the network of the process `pid` (a host's init), begun `seconds` before the block is entered.

    user: as which it comes to the broker. pause: seconds from one write to the next of its kind.
    """
    process = _begin(pid, secret, prefix, kinds, user, pause)
    running = Load(process)
    try:
        threading.Event().wait(seconds)
        yield running
        running.end()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


if __name__ == "__main__":
    _main()
