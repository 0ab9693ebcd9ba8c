"""A real broker and a real database on loopback, a relay for mail, and workers in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pymysql
import pytest

from deploy.model.catalog import DEAD_LETTERS, QUEUES
from deploy.model.settings import Rabbitmq as RabbitmqSettings
from deploy.roles.rabbitmq_topology import dead
from tests.unit.frontend.fakes import HOST, Mariadb, free_port, stop, wait_for_port
from tests.unit.services.support import SERVICES, environment

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's own: only it has Pango and cairo."""
BROKER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Not what is in Debian's path: that one becomes another user, to whom a test's directory is closed."""
PASSWORD = "db-secret"
DELIVERY_LIMIT = RabbitmqSettings().delivery_limit
MAIN = "from omegaup_services.worker.app import main; main()"


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def need_pdf() -> None:
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import omegaup_services.worker.pdf"], env=environment(), capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("apt-get install python3-gi-cairo gir1.2-pango-1.0 fonts-noto-core fonts-wqy-microhei")


class Rabbitmq:
    """One broker with the fleet's exchanges and quorum queues."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        epmd = free_port()
        (directory / "plugins").write_text("[].\n")
        self._environment = {
            **os.environ, "HOME": str(directory), "ERL_EPMD_PORT": str(epmd), "RABBITMQ_NODENAME": "test@localhost",
            "RABBITMQ_MNESIA_BASE": str(directory / "data"), "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"), "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"), "RABBITMQ_LOGS": "-",
        }  # fmt: skip
        self._log = (directory / "out").open("ab")
        # Ours: one that the broker starts would outlive it.
        self._epmd = subprocess.Popen(["epmd", "-port", str(epmd)], stdout=self._log, stderr=self._log)
        wait_for_port(epmd, self._epmd)
        self.start()
        self.declare()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [BROKER], env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        wait_for_port(self.port, self.process, 90)
        eventually("the broker takes clients", lambda: self._answers(), 30)

    def _answers(self) -> bool:
        with suppress(pika.exceptions.AMQPError, OSError), self.channel():
            return True
        return False

    def kill(self) -> None:
        """As by kill -9."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        stop(self._epmd)
        self._log.close()

    @contextmanager
    def channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(HOST, self.port, credentials=pika.PlainCredentials("guest", "guest"))
        )
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def declare(self) -> None:
        with self.channel() as channel:
            channel.exchange_declare(DEAD_LETTERS, "direct", durable=True)
            for queue in QUEUES:
                channel.exchange_declare(queue.exchange, "direct", durable=True)
                quorum = {"x-queue-type": "quorum"}
                limits = {"x-dead-letter-exchange": DEAD_LETTERS, "x-delivery-limit": DELIVERY_LIMIT}
                channel.queue_declare(dead(queue.name), durable=True, arguments=quorum)
                channel.queue_bind(dead(queue.name), DEAD_LETTERS, queue.name)
                channel.queue_declare(queue.name, durable=True, arguments={**quorum, **limits})
                channel.queue_bind(queue.name, queue.exchange, queue.name)

    def publish(self, queue: str, *messages: dict[str, Any] | bytes) -> None:
        exchange = next(one.exchange for one in QUEUES if one.name == queue)
        with self.channel() as channel:
            for message in messages:
                body = message if isinstance(message, bytes) else json.dumps(message).encode()
                channel.basic_publish(exchange, queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def taken(self, queue: str) -> list[tuple[Any, bytes]]:
        """All that waits in a queue: (properties, body)."""
        found = []
        with self.channel() as channel:
            while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                found.append((got[1], got[2]))
        return found

    def waiting(self, queue: str) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def drained(self, queue: str) -> bool:
        """Nothing waits, and nothing is with a consumer: one that stops returns what it has not begun."""
        if self.waiting(queue) > 0:
            return False
        tool, node = str(Path(BROKER).with_name("rabbitmqctl")), self._environment["RABBITMQ_NODENAME"]
        listed = subprocess.run(
            [tool, "--quiet", "--node", node, "list_queues", "--formatter", "json", "name", "messages"],
            env=self._environment, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        return bool({one["name"]: one["messages"] for one in json.loads(listed)}[queue] == 0)


class Database:
    """The fleet's tables, and the workers' account with no more than it has there."""

    def __init__(self, server: Mariadb, grants: dict[str, tuple[str, ...]]) -> None:
        self.server = server
        server.sql(f"CREATE USER IF NOT EXISTS worker@'{HOST}' IDENTIFIED BY '{PASSWORD}'")
        for scope, privileges in grants.items():
            server.sql(f"GRANT {', '.join(privileges)} ON {scope} TO worker@'{HOST}'")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        connection = pymysql.connect(
            unix_socket=self.server.socket, user="root", database="omegaup", charset="utf8mb4", autocommit=True
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()


class Worker:
    """`omegaup-worker` on one queue, as systemd would start it again whenever it ends. `code`: what runs instead."""

    def __init__(
        self, directory: Path, queue: str, broker: Rabbitmq, database: Mariadb, code: str = MAIN, **more: Any
    ) -> None:
        self._code = code
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "queue": queue,
            "rabbitmq": {"host": HOST, "port": broker.port, "user": "guest", "password": "guest"},
            "mysql": {"host": HOST, "port": database.port, "user": "worker", "password": PASSWORD},
            "backoff": {"initial_seconds": 0.05, "max_seconds": 0.5},
            "log": {"format": "text"},
            **more,
        }
        self.config = directory / "worker.json"
        self.config.write_text(json.dumps(config))
        self.log = directory / "worker.log"
        self.start()

    def start(self) -> None:
        # Debian's Python has no driver of its own here; ours are of the same version of Python.
        packages = Path(pika.__file__).parents[1]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [SYSTEM_PYTHON, "-c", self._code, "--config", str(self.config)],
                env=environment(PYTHONPATH=f"{SERVICES}:{packages}"), stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 20) -> int:
        self.process.terminate()
        return self.process.wait(seconds)


class Mailbox:
    """A relay that takes mail, or answers as `say` tells it to: RCPT's or DATA's answer by recipient."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answers: dict[str, str] = {}
        self.hang_up_after_data = False
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 10

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self) -> None:
                self.say("220 relay")
                answer = "250 ok"
                while line := self.rfile.readline():
                    verb, _, rest = line.decode().strip().partition(" ")
                    match verb.upper():
                        case "EHLO":
                            self.say("250-relay")
                            self.say("250 8BITMIME")
                        case "RCPT":
                            answer = mailbox.answers.get(rest.partition("<")[2].rstrip(">"), "250 ok")
                            self.say(answer)
                        case "DATA":
                            self.say("354 go on")
                            text = b""
                            while (part := self.rfile.readline()) != b".\r\n":
                                text += part
                            mailbox.mails.append(message_from_bytes(text, policy=policy.default))
                            self.say("250 taken")
                            if mailbox.hang_up_after_data:
                                return
                        case "QUIT":
                            self.say("221 bye")
                            return
                        case _:
                            self.say("250 ok")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server((HOST, 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def eventually(what: str, true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
