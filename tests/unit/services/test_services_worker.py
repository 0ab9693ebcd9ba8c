"""Messages as the specification has them, and what becomes of each: acknowledged, dead-lettered or held."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika.exceptions  # type: ignore[import-untyped]
import pytest
from omegaup_services.config import Backoff, Mysql, Rabbitmq
from omegaup_services.database import DatabaseDown
from omegaup_services.schema import Secret
from omegaup_services.worker.certificates import certificates
from omegaup_services.worker.consumer import Consumer, Invalid, NotNow
from omegaup_services.worker.mail import MysqlMails
from omegaup_services.worker.messages import (
    AnalyticsEvent,
    CertificateRequest,
    MailRequest,
    analytics_event,
    certificate_request,
    mail_request,
)

MESSAGE: dict[str, Any] = {  # the specification's own example
    "type": "generate_certificates",
    "contest_id": 123,
    "certificate_cutoff": 10,
    "ranking": [{"username": "user1", "place": 1}, {"username": "user2", "place": 2}],
    "timestamp": 1704067200,
}
RABBITMQ = Rabbitmq(host="127.0.0.1", user="u", password=Secret("p"))
BACKOFF = Backoff(initial_seconds=0.01, max_seconds=0.02)


class Cursor:
    """Executes nothing."""

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def execute(self, *_: object) -> None:
        return None


class Commits:
    """Stands in for a session: its transactions are rolled back, at the commit, as often as told."""

    failures = 0

    def __init__(self, _: Any) -> None:
        self.done = 0

    def cursor(self) -> Cursor:
        return Cursor()

    def run(self, work: Callable[[Any], bool]) -> bool:
        result = work(self)
        if self.done < self.failures:
            self.done += 1
            raise DatabaseDown("Lost connection (2013)")
        return result


def body(**change: Any) -> bytes:
    return json.dumps({**MESSAGE, **change}).encode()


def test_the_specifications_message_is_understood() -> None:
    request = certificate_request(body(certificate_cutoff=1))
    assert (request.contest_id, request.timestamp) == (123, 1704067200)
    assert [request.certified_place(entry) for entry in request.ranking] == [1, None]
    request = certificate_request(body(certificate_cutoff=None))
    assert [request.certified_place(entry) for entry in request.ranking] == [None, None]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        body(type="other"),
        body(contest_id="123"),
        body(contest_id=True),
        body(contest_id=0),
        body(certificate_cutoff=-1),
        body(timestamp=1.5),
        body(extra=1),
        body(ranking={}),
        body(ranking=[1]),
        body(ranking=[{"username": "a"}]),
        body(ranking=[{"username": "", "place": 1}]),
        body(ranking=[{"username": "a", "place": 0}]),
        body(ranking=[{"username": "\ud800", "place": 1}]),
        body(ranking=[{"username": "a\nb", "place": 1}]),
        body(ranking=[{"username": "a ", "place": 1}]),
        body(ranking=[{"username": "\u202eana", "place": 1}]),
        body(ranking=[{"username": "a", "place": 1}, {"username": "a", "place": 2}]),
        json.dumps({key: MESSAGE[key] for key in MESSAGE if key != "timestamp"}).encode(),
    ],
)
def test_anything_else_is_invalid(bad: bytes) -> None:
    with pytest.raises(Invalid):
        certificate_request(bad)


def breathe() -> None:
    return None


class Saved:
    """A certificate store that fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.requests: list[CertificateRequest] = []

    def save(self, request: CertificateRequest, breathe: Callable[[], None]) -> int:
        if self.failures:
            self.failures -= 1
            raise DatabaseDown("Can't connect (2003)")
        self.requests.append(request)
        return len(request.ranking)


def test_database_away_means_later_and_not_never() -> None:
    store = Saved(failures=1)
    handle = certificates(store)
    with pytest.raises(NotNow, match="2003"):
        handle(body(), breathe)
    handle(body(), breathe)
    assert len(store.requests) == 1


EVENT: dict[str, Any] = {"type": "visit", "event_id": "e1", "timestamp": 1704067200}
MAIL: dict[str, Any] = {**EVENT, "type": "email", "to": "ana@example.org", "subject": "Hola", "body": "ñ"}


def test_events_and_mails_are_understood() -> None:
    assert analytics_event(json.dumps(EVENT).encode()) == AnalyticsEvent("e1", "visit", 1704067200)
    request = mail_request(json.dumps(MAIL).encode())
    assert request == MailRequest("e1", "ana@example.org", "Hola", "ñ", 1704067200)


def test_a_mail_is_sent_twice_only_by_a_process_that_does_not_know_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("omegaup_services.worker.mail.Session", Commits)
    monkeypatch.setattr(Commits, "failures", 1)
    request, sent = mail_request(json.dumps(MAIL).encode()), []
    mysql = Mysql(host="127.0.0.1", user="u", password=Secret("p"))
    first = MysqlMails(mysql)
    with pytest.raises(DatabaseDown):
        first.once(request, lambda: sent.append("first"))
    assert first.once(request, lambda: sent.append("first again"))
    assert sent == ["first"], "the commit failed, not the mail"
    monkeypatch.setattr(Commits, "failures", 0)
    MysqlMails(mysql).once(request, lambda: sent.append("another process"))
    assert sent == ["first", "another process"], "which nothing but the commit could have told"


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": ""},
        {"event_id": "a b"},
        {"event_id": "e" * 65},
        {"timestamp": -1},
        {"timestamp": 10**12},
        {"type": 1},
        {"more": 1},
    ],
)
def test_events_and_mails_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        analytics_event(json.dumps({**EVENT, **change}).encode())
    with pytest.raises(Invalid):
        mail_request(json.dumps({**MAIL, **change}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"to": "ana"},
        {"to": "ana@example.org, bea@example.org"},
        {"to": "ana@example.org\r\nBcc: bea@example.org"},
        {"subject": ""},
        {"subject": "a\nBcc: bea@example.org"},
        {"body": None},
        {"body": "x" * 70_000},
    ],
)
def test_mails_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        mail_request(json.dumps({**MAIL, **change}).encode())


class Method:
    def __init__(self, tag: int, redelivered: bool = False) -> None:
        self.delivery_tag = tag
        self.redelivered = redelivered


class Broker:
    """Stands in for pika: each connection delivers what is left, then idles, or fails as told."""

    def __init__(self, *messages: bytes) -> None:
        self.left = dict(enumerate(messages, 1))
        self.redelivered: set[int] = set()
        self.singly: list[int] = []
        self.log: list[tuple[str, int]] = []
        self.connections = 0
        self.refuse = 0
        self.dead: list[str] = []
        self.dead_letters = True
        self.is_open = True

    def connect(self, _: Any) -> Broker:
        self.connections += 1
        if self.refuse:
            self.refuse -= 1
            raise pika.exceptions.AMQPConnectionError
        return self

    def channel(self) -> Broker:
        return self

    @property
    def connection(self) -> Broker:
        return self

    def basic_qos(self, prefetch_count: int) -> None:
        self.prefetch = prefetch_count

    def basic_get(self, _: str) -> tuple[Method | None, None, bytes | None]:
        if not self.left:
            return (None, None, None)
        tag = next(iter(self.left))
        self.singly.append(tag)
        return Method(tag, tag in self.redelivered), None, self.left[tag]

    def consume(self, _: str, inactivity_timeout: float) -> Iterator[tuple[Method | None, None, bytes | None]]:
        nothing = (None, None, None)
        for tag in list(self.left):
            yield Method(tag), None, self.left[tag]
        for _turn in range(3):
            yield nothing

    def sleep(self, _: float) -> None:
        self.log.append(("sleep", 0))

    def confirm_delivery(self) -> None:
        return None

    def basic_publish(self, exchange: str, key: str, _: bytes, properties: Any, mandatory: bool) -> None:
        if not self.dead_letters:
            raise pika.exceptions.ChannelClosedByBroker(403, "no permission")
        assert (exchange, key, mandatory, properties.delivery_mode) == ("dead-letters", "ContestQueue", True, 2)
        self.dead.append(properties.headers["x-reason"])

    def basic_ack(self, tag: int) -> None:
        del self.left[tag]
        self.log.append(("ack", tag))

    def basic_reject(self, tag: int, requeue: bool) -> None:
        assert not requeue
        del self.left[tag]
        self.log.append(("reject", tag))

    def basic_nack(self, tag: int, requeue: bool) -> None:
        assert requeue
        self.log.append(("nack", tag))

    def close(self) -> None:
        return None


def consume(
    broker: Broker, handle: Any, monkeypatch: pytest.MonkeyPatch, connections: int = 1, prefetch: int = 1
) -> list[str]:
    """Run a consumer until the broker's n-th connection ends; what systemd would have heard."""
    heard: list[str] = []

    def tick() -> None:
        if broker.connections >= connections and all(word != "sleep" for word, _ in broker.log[-1:]):
            idle.append(1)
        if len(idle) > len(broker.left) + 1:
            it.stop()

    idle: list[int] = []
    monkeypatch.setattr("pika.BlockingConnection", broker.connect)
    it = Consumer(
        RABBITMQ, "ContestQueue", handle, prefetch=prefetch, backoff=BACKOFF,
        on_consuming=lambda: heard.append("ready"), on_tick=tick,
    )  # fmt: skip
    thread = threading.Thread(target=it.run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return heard


def test_done_is_acknowledged_and_invalid_dead_lettered(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, store = Broker(body(), b"nonsense", body(contest_id=7)), Saved()
    consume(broker, certificates(store), monkeypatch)
    assert broker.log == [("ack", 1), ("ack", 2), ("ack", 3)]
    assert broker.dead == ["not JSON"]
    assert [request.contest_id for request in store.requests] == [123, 7]


def test_message_is_held_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, store = Broker(body()), Saved(failures=2)
    consume(broker, certificates(store), monkeypatch)
    assert [word for word, _ in broker.log] == ["sleep", "sleep", "ack"]


def test_a_fault_of_ours_dead_letters_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(message: bytes, _: Callable[[], None]) -> None:
        if message == b"1":
            raise ZeroDivisionError("by zero")

    broker = Broker(b"1", b"2")
    consume(broker, handle, monkeypatch)
    assert broker.log == [("ack", 1), ("ack", 2)]
    assert broker.dead == ["handler failed: ZeroDivisionError: by zero"]


def test_what_the_dead_letters_do_not_take_from_us_they_take_from_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(b"nonsense")
    broker.dead_letters = False
    consume(broker, certificates(Saved()), monkeypatch)
    assert broker.log == [("reject", 1)]


def test_what_was_delivered_before_is_taken_one_by_one_before_anything_is_prefetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the one among them that kills its consumer would take the others to the delivery limit with it."""
    broker = Broker(b"1", b"2", b"3", b"4")
    broker.redelivered = {1, 2}
    heard = consume(broker, lambda *_: None, monkeypatch, prefetch=10)
    assert broker.prefetch == 10
    assert broker.singly == [1, 2, 3]
    assert broker.log == [("ack", tag) for tag in range(1, 5)]
    assert heard[0] == "ready"


def test_with_a_prefetch_of_one_there_is_nothing_to_take_care_of(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(b"1", b"2")
    broker.redelivered = {1, 2}
    consume(broker, lambda *_: None, monkeypatch)
    assert (broker.prefetch, broker.singly) == (1, [])


def test_it_comes_back_when_the_broker_does_or_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, store = Broker(body()), Saved()
    broker.refuse = 2
    heard = consume(broker, certificates(store), monkeypatch, connections=4)
    assert broker.connections >= 4  # two refused, one cancelled by the broker, one more
    assert heard[:2] == ["ready", "ready"]
    assert broker.log == [("ack", 1)]
