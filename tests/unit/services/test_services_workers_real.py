"""Workers under faults, with a real broker and database: what each message leaves behind, and that it does so once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import types
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaup_services.config import Mysql
from omegaup_services.schema import Secret
from omegaup_services.worker.certificates import MysqlCertificates
from omegaup_services.worker.messages import certificate_request

from deploy.roles.mysql_access import WORK, WORKER_TABLES
from deploy.roles.rabbitmq_topology import dead
from tests.unit.frontend.fakes import HOST, Mariadb
from tests.unit.services.servers import (
    BROKER,
    DELIVERY_LIMIT,
    MAIN,
    PASSWORD,
    Database,
    Mailbox,
    Rabbitmq,
    Worker,
    eventually,
    need,
    need_pdf,
)
from tests.unit.services.support import SERVICES, environment

FILES = "FROM Certificates JOIN Certificate_Files USING (certificate_id)"
CONTEST, MAIL, ANALYTICS = "ContestQueue", "NotificationQueue", "AnalyticsQueue"
NAMES = (
    "José Ñandú",
    "محمد عبد الله",
    "דוד",
    "中村さくら",
    "김철수",
    "Владимир",
    "अनिल कुमार",
    "สมชาย",
    "user9",
    "W" * 255,
)


@pytest.fixture(scope="module")
def broker() -> Iterator[Rabbitmq]:
    need(BROKER, "epmd")
    with tempfile.TemporaryDirectory(prefix="broker") as directory:
        server = Rabbitmq(Path(directory))
        yield server
        server.close()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    need("mariadbd", "mariadb-install-db")
    with tempfile.TemporaryDirectory(prefix="db") as directory:
        schema = [file for part in ("services", "frontend") for file in sorted((SERVICES.parent / part).glob("sql/*"))]
        server = Mariadb(Path(directory), schema, os.geteuid() == 0)
        yield Database(server, {f"omegaup.{table}": WORK for table in WORKER_TABLES})
        server.stop()


@pytest.fixture
def workers(tmp_path: Path, broker: Rabbitmq, database: Database) -> Iterator[Any]:
    made: list[Worker] = []

    def make(queue: str, **more: Any) -> Worker:
        worker = Worker(tmp_path / str(len(made)), queue, broker, database.server, **more)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.kill()


def order(contest: int, names: tuple[str, ...] = NAMES, **more: Any) -> dict[str, Any]:
    ranking = [{"username": name, "place": place} for place, name in enumerate(names, 1)]
    return {
        "type": "generate_certificates", "contest_id": contest, "certificate_cutoff": 5, "ranking": ranking,
        "timestamp": 1704067200, **more,
    }  # fmt: skip


def text(program: str, pdf: bytes) -> str:
    return subprocess.run([program, "-", *(["-"] if program == "pdftotext" else [])], input=pdf, capture_output=True,
                          check=True).stdout.decode()  # fmt: skip


def opens(username: str, place: int | None, contest: int, code: str, pdf: bytes) -> None:
    """A reader opens it, and finds the name and the place."""
    about = text("pdfinfo", pdf)
    assert re.search(r"^Title:\s+(.*)$", about, re.MULTILINE)[1] == username  # type: ignore[index]
    assert f"contest {contest}, place {place if place is not None else 'none'}, code {code}" in about
    assert re.search(r"^Pages:\s+1$", about, re.MULTILINE)


def test_certificates_once_and_only_once_whatever_is_killed(workers: Any, broker: Rabbitmq, database: Database) -> None:
    """Sixty contests (FLEET_CONTESTS: another number), a third of them ordered twice; workers, the broker and the
    database are killed as a seed says.
    """
    need("pdfinfo", "pdftotext")
    need_pdf()
    seed = random.Random(8)
    many = int(os.environ.get("FLEET_CONTESTS", "60"))
    contests = range(10_000, 10_000 + many)
    orders = [order(contest) for contest in contests] + [order(contest) for contest in contests[::3]]
    seed.shuffle(orders)
    two = [workers(CONTEST), workers(CONTEST)]
    for at, message in enumerate(orders):
        broker.publish(CONTEST, message)
        if at % 16 == 7:
            victim = seed.choice(two)
            victim.kill()
            victim.start()
        if at == many // 2:
            broker.kill()
            broker.start()
        if at == many * 5 // 6:
            database.server.kill()
            database.server.start()
    broker.publish(CONTEST, b"poison")
    stored = f"SELECT COUNT(*) {FILES} WHERE contest_id BETWEEN {contests[0]} AND {contests[-1]}"
    eventually("all are stored", lambda: database.rows(stored) == [(10 * many,)], 60 + many)
    eventually("all is done", lambda: broker.drained(CONTEST))
    [worker.stop() for worker in two]
    rows = database.rows(
        "SELECT contest_id, username, place, verification_code, pdf, HEX(sha256)"
        f" {FILES} WHERE contest_id BETWEEN {contests[0]} AND {contests[-1]}"
    )
    expected = {(c, name, place if place <= 5 else None) for c in contests for place, name in enumerate(NAMES, 1)}
    assert {(row[0], row[1], row[2]) for row in rows} == expected
    assert all(hashlib.sha256(pdf).hexdigest().upper() == digest for *_, pdf, digest in rows)
    for contest, username, place, code, pdf, _ in seed.sample(rows, 60):
        opens(username, place, contest, code, pdf)
    [(properties, body)] = broker.taken(dead(CONTEST))
    assert (body, properties.headers["x-reason"]) == (b"poison", "not JSON")


def test_workers_that_record_the_same_contests_do_not_deadlock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at once, each contest by each of them, and neighbouring ones at the same time."""
    drawn = types.ModuleType("pdf")
    vars(drawn)["Certificate"] = lambda *about: about  # the real one needs Pango
    monkeypatch.setitem(sys.modules, "omegaup_services.worker.pdf", drawn)
    mysql = Mysql(host=HOST, port=database.server.port, user="worker", password=Secret(PASSWORD))
    requests = [certificate_request(json.dumps(order(contest)).encode()) for contest in range(5000, 5040)]

    def record(number: int) -> int:
        store = MysqlCertificates(mysql, lambda about: repr(about).encode())
        mine = [one for at in range(0, 40, 4) for one in random.Random(number + at).sample(requests[at : at + 4], 4)]
        return sum(store.save(request, lambda: None) for request in mine)

    deadlocks = database.rows("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(record, range(4)))
    assert database.rows("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'") == deadlocks
    assert sum(created) == 40 * len(NAMES)
    assert database.rows(f"SELECT COUNT(*) {FILES} WHERE contest_id BETWEEN 5000 AND 5039") == [(40 * len(NAMES),)]


def test_names_in_any_script_are_readable(workers: Any, broker: Rabbitmq, database: Database) -> None:
    need("pdftotext")
    need_pdf()
    workers(CONTEST)
    broker.publish(CONTEST, order(2000))
    files = f"SELECT username, pdf {FILES} WHERE contest_id = 2000"
    eventually("they are stored", lambda: len(database.rows(files)) == len(NAMES))
    for username, pdf in database.rows(files):
        # Marks of direction that pdftotext puts around; a long name is on several lines.
        shown = re.sub(r"[\u202a-\u202e\s]", "", text("pdftotext", pdf))
        assert username.replace(" ", "") in shown


def test_a_newer_order_changes_the_place_and_an_older_one_does_not(
    workers: Any, broker: Rabbitmq, database: Database
) -> None:
    need("pdfinfo")
    need_pdf()
    workers(CONTEST)
    rows = f"SELECT username, place, verification_code, pdf {FILES} WHERE contest_id = 3000 ORDER BY 1"
    broker.publish(CONTEST, order(3000, ("ana", "bea"), timestamp=100))
    eventually("they are stored", lambda: len(database.rows(rows)) == 2)
    codes = [row[2] for row in database.rows(rows)]
    broker.publish(CONTEST, order(3000, ("bea", "ana"), timestamp=200), order(3000, ("ana", "bea"), timestamp=150))
    eventually("all is done", lambda: broker.drained(CONTEST))
    eventually("places have changed", lambda: [row[1] for row in database.rows(rows)] == [2, 1])
    for username, place, code, pdf in database.rows(rows):
        opens(username, place, 3000, code, pdf)
    assert [row[2] for row in database.rows(rows)] == codes, "a code that is on paper stays true"


def test_a_stop_breaks_a_long_ranking_off_and_the_next_goes_on(
    workers: Any, broker: Rabbitmq, database: Database
) -> None:
    need_pdf()
    worker = workers(CONTEST)
    names = tuple(f"user{n}" for n in range(3000))
    broker.publish(CONTEST, order(4000, names))
    count = "SELECT COUNT(*) FROM Certificates WHERE contest_id = 4000"
    eventually("some are recorded", lambda: database.rows(count)[0][0] > 0)
    assert worker.stop(10) == 0
    [(done,)] = database.rows(count)
    assert 0 < done < 3000
    worker.start()
    eventually("all are recorded", lambda: database.rows(count) == [(3000,)], 60)
    eventually("all is done", lambda: broker.drained(CONTEST))


def event(**more: Any) -> dict[str, Any]:
    return {
        "type": "email", "event_id": uuid.uuid4().hex, "to": "ana@example.org", "subject": "Señal", "body": "Hola ñ\n",
        "timestamp": 1704067200, **more,
    }  # fmt: skip


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    relay = Mailbox()
    yield relay
    relay.close()


def through(relay: Mailbox) -> dict[str, Any]:
    return {"mail": {"host": HOST, "port": relay.port, "sender": "noreply@omegaup.test", "timeout_seconds": 3}}


def test_one_mail_for_one_event_while_nobody_dies(
    workers: Any, broker: Rabbitmq, database: Database, mailbox: Mailbox
) -> None:
    events = [event() for _ in range(30)]
    for _ in range(3):
        broker.publish(MAIL, *events)
    two = [workers(MAIL, **through(mailbox)), workers(MAIL, **through(mailbox))]
    eventually("all is done", lambda: broker.drained(MAIL))
    assert [worker.stop() for worker in two] == [0, 0]
    ids = sorted(mail["Message-ID"] for mail in mailbox.mails)
    assert ids == sorted(f"<{one['event_id']}@omegaup.test>" for one in events)
    mail = mailbox.mails[0]
    assert (mail["From"], mail["To"], mail["Subject"]) == ("noreply@omegaup.test", "ana@example.org", "Señal")
    assert mail.get_content().replace("\r\n", "\n") == "Hola ñ\n"


def test_a_relay_that_hangs_up_after_taking_it_gets_it_once(
    workers: Any, broker: Rabbitmq, database: Database, mailbox: Mailbox
) -> None:
    mailbox.hang_up_after_data = True
    broker.publish(MAIL, event())
    worker = workers(MAIL, **through(mailbox))
    eventually("it is taken", lambda: len(mailbox.mails) > 0)
    eventually("all is done", lambda: broker.drained(MAIL))
    worker.stop()
    assert len(mailbox.mails) == 1


def test_mails_wait_for_the_relay_and_for_the_database(
    workers: Any, broker: Rabbitmq, database: Database, mailbox: Mailbox
) -> None:
    mailbox.answers["ana@example.org"] = "451 not now"
    one = event()
    broker.publish(MAIL, one)
    worker = workers(MAIL, **through(mailbox))
    eventually("it was refused", lambda: "not now" in worker.log.read_text())
    assert mailbox.mails == []
    database.server.kill()
    # Before that, a try may be under way that has asked the database already.
    eventually("it waits for the database", lambda: "mysql: " in worker.log.read_text())
    mailbox.answers.clear()
    assert mailbox.mails == []
    database.server.start()
    eventually("it is sent", lambda: len(mailbox.mails) == 1)
    row = f"SELECT recipient FROM Mails_Sent WHERE event_id = '{one['event_id']}'"
    eventually("its event is known", lambda: database.rows(row) == [("ana@example.org",)])


def test_what_the_relay_will_never_take_goes_to_the_dead_letters(
    workers: Any, broker: Rabbitmq, database: Database, mailbox: Mailbox
) -> None:
    mailbox.answers["nobody@example.org"] = "550 no such person"
    broker.publish(MAIL, event(to="nobody@example.org"), event(), {"type": "email"})
    workers(MAIL, **through(mailbox))
    eventually("the good one is sent", lambda: len(mailbox.mails) == 1, 60)
    eventually("both are there", lambda: broker.waiting(dead(MAIL)) == 2)
    reasons = sorted(properties.headers["x-reason"] for properties, _ in broker.taken(dead(MAIL)))
    assert reasons[0].startswith("keys: missing ['body', 'event_id'")
    assert reasons[1] == "mail relay: recipient refused: 550 no such person"


def test_each_event_counts_once(workers: Any, broker: Rabbitmq, database: Database) -> None:
    seed = random.Random(8)
    days = (1704067200, 1704067200 + 86399, 1704067200 + 86400)
    events = [
        {"type": seed.choice(("visit", "login")), "event_id": f"e{n}", "timestamp": seed.choice(days)}
        for n in range(300)
    ]
    worker = workers(ANALYTICS, prefetch=50)
    for round_ in range(2):
        broker.publish(ANALYTICS, *events)
        worker.kill()
        worker.start()
        if round_ == 0:
            database.server.kill()
            database.server.start()

    def counted() -> dict[tuple[str, str], int]:
        rows = database.rows("SELECT day, type, events FROM Analytics_Daily WHERE type != 'beside'")
        return {(str(day), kind): n for day, kind, n in rows}

    last = ("2024-01-01", "last")
    broker.publish(ANALYTICS, {"type": "last", "event_id": "last", "timestamp": days[0]})
    eventually("the last one is counted", lambda: last in counted(), 40)
    assert worker.stop() == 0
    expected = Counter(("2024-01-02" if one["timestamp"] == days[2] else "2024-01-01", one["type"]) for one in events)
    assert counted() == expected | {last: 1}
    assert broker.taken(dead(ANALYTICS)) == []


DEADLY = """
import os
from omegaup_services.worker import analytics
understood = analytics.analytics_event
def event(body):
    if b"deadly" in body:
        os._exit(9)
    return understood(body)
analytics.analytics_event = event
"""


def test_only_what_kills_its_worker_comes_to_the_delivery_limit(
    workers: Any, broker: Rabbitmq, database: Database
) -> None:
    """And not what was prefetched beside it."""
    events = [{"type": "beside", "event_id": f"beside{n}", "timestamp": 0} for n in range(60)]
    broker.publish(ANALYTICS, *events[:30], b"deadly", *events[30:])
    worker = workers(ANALYTICS, prefetch=10, code=DEADLY + MAIN)
    deaths = 0
    while broker.waiting(dead(ANALYTICS)) == 0:
        with suppress(subprocess.TimeoutExpired):
            assert worker.process.wait(1) == 9
            deaths += 1
            assert deaths <= DELIVERY_LIMIT + 2
            worker.start()
    eventually("all is done", lambda: broker.drained(ANALYTICS))
    assert worker.stop() == 0
    assert deaths > DELIVERY_LIMIT
    assert database.rows("SELECT events FROM Analytics_Daily WHERE type = 'beside'") == [(len(events),)]
    assert [body for _, body in broker.taken(dead(ANALYTICS))] == [b"deadly"]


def tool(tmp_path: Path, broker: Rabbitmq, *words: str) -> Any:
    """What `omegaup-queue` prints."""
    config = tmp_path / "queues.json"
    rabbitmq = {"host": HOST, "port": broker.port, "user": "guest", "password": "guest"}
    config.write_text(json.dumps({"rabbitmq": rabbitmq}))
    code = "from omegaup_services.worker.queues import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--config", str(config), *words], env=environment(),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_dead_letters_are_seen_put_back_and_thrown_away(
    workers: Any, broker: Rabbitmq, database: Database, tmp_path: Path
) -> None:
    messages = [{"type": "visit", "event_id": f"again{n}", "timestamp": 0, "more": 1} for n in range(5)]
    broker.publish(ANALYTICS, *messages)
    worker = workers(ANALYTICS)
    eventually("all are rejected", lambda: broker.waiting(dead(ANALYTICS)) == 5)
    worker.stop()
    for _ in range(7):  # more often than a queue with a limit would stand
        seen = tool(tmp_path, broker, "peek", dead(ANALYTICS), "--count", "3")
    assert [json.loads(one["body"]) for one in seen] == messages[:3]
    assert {one["reason"] for one in seen} == {"keys: missing none, unknown ['more']"}
    back = ("requeue", dead(ANALYTICS), "--exchange", "analytics", "--key", ANALYTICS)
    assert tool(tmp_path, broker, *back, "--count", "2") == 2
    listed = tool(tmp_path, broker, "list", ANALYTICS, dead(ANALYTICS))
    assert [(one["messages"], one["consumers"]) for one in listed] == [(2, 0), (3, 0)]
    assert tool(tmp_path, broker, *back, "--count", "100") == 3
    taken = broker.taken(ANALYTICS)
    assert [json.loads(body) for _, body in taken] == messages
    assert {properties.delivery_mode for properties, _ in taken} == {2}
    assert not any("x-reason" in (properties.headers or {}) for properties, _ in taken)
    broker.publish(ANALYTICS, b"x", b"y")
    assert tool(tmp_path, broker, "purge", ANALYTICS) == 2
    assert tool(tmp_path, broker, "list", ANALYTICS)[0]["messages"] == 0
