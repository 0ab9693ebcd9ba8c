"""What TLS costs a publisher: confirmed messages by each listener of one real broker, in turn; then connections."""

from __future__ import annotations

import shutil
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest

from deploy.model.catalog import SSL_DIR
from deploy.roles import rabbitmq_tls
from tests.unit.frontend.fakes import HOST, free_port
from tests.unit.roles.test_rabbitmq_tls import context
from tests.unit.services.servers import BROKER, Rabbitmq
from tests.unit.trust.made import authority

MESSAGES, CONNECTIONS, TURNS = 400, 40, 5
BODY = b"x" * 400
EXCHANGE, QUEUE = "analytics", "AnalyticsQueue"


class Both(Rabbitmq):
    """A broker with a listener in the clear and one with the fleet's own options of TLS."""

    def __init__(self, directory: Path, folder: Path) -> None:
        self.tls = free_port()
        self._directory, self._folder = directory, folder
        super().__init__(directory)

    def start(self) -> None:
        amqp, _ = rabbitmq_tls.listens(context())
        listing = f'{{ssl_listeners, [{{"{HOST}", {self.tls}}}]}}'
        text = f"[{{rabbit, [{listing}, {{ssl_options, {amqp.replace(SSL_DIR, str(self._folder))}}}]}}]."
        (self._directory / "advanced.config").write_text(text)
        self._environment["RABBITMQ_ADVANCED_CONFIG_FILE"] = str(self._directory / "advanced.config")
        super().start()

    def opened(self, *, tls: bool) -> pika.BlockingConnection:
        how: Any = None
        if tls:
            made = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
            made.load_cert_chain(self._folder / "proxy.crt", self._folder / "proxy.key")
            how = pika.SSLOptions(made, "localhost")
        login = pika.PlainCredentials("guest", "guest")
        port = self.tls if tls else self.port
        return pika.BlockingConnection(pika.ConnectionParameters(HOST, port, credentials=login, ssl_options=how))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    if not Path(BROKER).exists() or shutil.which("openssl") is None:
        pytest.skip("no RabbitMQ here")
    folder = tmp_path_factory.mktemp("ssl")
    authority(folder, rabbitmq="serverAuth,clientAuth", proxy="clientAuth")
    made = Both(tmp_path_factory.mktemp("broker"), folder)
    yield made
    made.close()


def seconds_of_messages(broker: Both, *, tls: bool) -> float:
    """For each of MESSAGES: sent, then waited for until the broker has it on its disk."""
    connection = broker.opened(tls=tls)
    channel = connection.channel()
    channel.confirm_delivery()
    begun = time.perf_counter()
    for _ in range(MESSAGES):
        channel.basic_publish(EXCHANGE, QUEUE, BODY, pika.BasicProperties(delivery_mode=2), mandatory=True)
    took = time.perf_counter() - begun
    channel.queue_purge(QUEUE)
    connection.close()
    return took / MESSAGES


def seconds_of_a_connection(broker: Both, *, tls: bool) -> float:
    begun = time.perf_counter()
    broker.opened(tls=tls).close()
    return time.perf_counter() - begun


def test_what_a_confirmed_message_costs(broker: Both) -> None:
    plain, tls = in_turn(lambda way: seconds_of_messages(broker, tls=way), TURNS)
    print(
        f"\na confirmed message: {1000 * plain:.2f} ms in the clear, {1000 * tls:.2f} ms by TLS: {tls / plain:.2f} to 1"
    )
    assert tls < 2 * plain


def test_what_a_connection_costs(broker: Both) -> None:
    plain, tls = in_turn(lambda way: seconds_of_a_connection(broker, tls=way), CONNECTIONS)
    print(f"\na connection: {1000 * plain:.1f} ms in the clear, {1000 * tls:.1f} ms by TLS")
    assert tls < plain + 0.2


def in_turn(measure: Callable[[bool], float], turns: int) -> tuple[float, float]:
    """Medians in the clear and by TLS, each measured after the other: a busy machine is so for both."""
    measure(False), measure(True)
    taken = [(measure(False), measure(True)) for _ in range(turns)]
    return statistics.median(plain for plain, _ in taken), statistics.median(tls for _, tls in taken)
