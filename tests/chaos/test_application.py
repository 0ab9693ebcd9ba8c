"""The application's promises under faults: certificates once and only once, one verdict for each submission, hostile
programs contained and named, messages that nobody can handle kept with the reason.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.roles.rabbitmq_topology import dead
from tests.chaos import results
from tests.chaos.application import PROBLEM, SUM, certificate, first, pdf_about, publish, put_problem, submit
from tests.chaos.failover import database, eventually, settled, sql, taken_out, the_fleet, writable
from tests.chaos.faults import kill_9
from tests.chaos.support import INVENTORY, ROOT, on

# Certificates

NAMES = ("José", "محمد", "דוד", "さくら", "김철수", "Владимир", "अनिल", "สมชาย", "user9", "user10")


def order_all(contests: range) -> None:
    """An order for each, from a web host, until it is taken: 202 is the promise."""
    # No backslash in it: printf would make something of it.
    ranking = json.dumps([{"username": n, "place": place} for place, n in enumerate(NAMES, 1)], ensure_ascii=False)
    body = f'{{"contest_id": %s, "certificate_cutoff": 5, "ranking": {ranking}}}'
    on(
        first("frontend"),
        f"""\
for contest in $(seq {contests.start} {contests.stop - 1}); do
  for try in 1 2 3 4 5 6 7 8 9 10; do
    code=$(printf {shlex.quote(body)} $contest | curl -s -m 30 -o /dev/null -w '%{{http_code}}' --data-binary @- \
      -H 'Content-Type: application/json' http://{first("frontend")}/certificates)
    [ "$code" != 202 ] || continue 2
    sleep 1
  done
  echo "contest $contest: $code"
  exit 1
done""",
    )


@pytest.mark.parametrize("messages", [100, pytest.param(1000, marks=pytest.mark.thorough)])
def test_certificates_whatever_is_killed(messages: int) -> None:
    seed = random.Random(messages)
    start = 1_000_000 + secrets.randbelow(10**6) * 1000
    contests = range(start, start + messages)
    worker = first("worker")
    taken_out(lambda script: on(first("rabbitmq"), script), dead("ContestQueue"))
    faults: list[Callable[[], None]] = [
        lambda: kill_9(worker, "omegaup-worker@certificates"),
        lambda: kill_9(seed.choice(the_fleet().members("rabbitmq")).name, "rabbitmq-server"),
        lambda: kill_9(database(), "mariadb"),
        lambda: kill_9(worker, "haproxy"),
    ]
    begun = time.monotonic()
    parts = 10
    for part in range(parts):
        order_all(range(start + part * messages // parts, start + (part + 1) * messages // parts))
        if part % 2 == 1:
            faults[part // 2 % len(faults)]()
    publish("certificates", "ContestQueue", "poison")
    files = "FROM Certificates JOIN Certificate_Files USING (certificate_id)"
    where = f"{files} WHERE contest_id BETWEEN {start} AND {contests[-1]}"
    wanted = messages * len(NAMES)
    eventually("the database takes writes again", lambda: len(writable()) == 1, 60)
    eventually("all are stored", lambda: sql(database(), f"SELECT COUNT(*) {where}") == [str(wanted)], 120 + messages)
    results.note(f"{messages} orders of certificates", seconds=time.monotonic() - begun)
    rows = sql(database(), f"SELECT contest_id, username, IFNULL(place, 0), verification_code {where}")
    found = {tuple(row.split("\t")[:3]) for row in rows}
    expected = {
        (str(contest), name, str(place if place <= 5 else 0))
        for contest in contests
        for place, name in enumerate(NAMES, 1)
    }
    assert found == expected
    damaged = f"SELECT COUNT(*) {where} AND (UNHEX(SHA2(pdf, 256)) <> sha256 OR LEFT(pdf, 5) <> '%PDF-')"
    assert sql(database(), damaged) == ["0"]
    for some in range(start, contests.stop, 10):
        ten = f"{files} WHERE contest_id BETWEEN {some} AND {min(some + 10, contests.stop) - 1}"
        shown = sql(database(), f"SELECT contest_id, username, IFNULL(place, 0), TO_BASE64(pdf) {ten}")
        with ThreadPoolExecutor(4) as pool:
            assert [wrong for wrong in pool.map(lambda row: misprinted(*row.split("\t")), shown) if wrong] == []
    for row in seed.sample(rows, 20):
        contest, username, place, code = row.split("\t")
        assert misprinted(contest, username, place, certificate(code)) == ""
    eventually("the poison is there", lambda: _dead("ContestQueue") == [("poison", "not JSON")], 30)
    settled()


def misprinted(contest: str, username: str, place: str, pdf: str) -> str:
    """What a reader of PDFs finds in a certificate (base 64) if it is another's; place: 0 for none."""
    about = pdf_about(pdf)
    named = re.search(rf"^Title:\s+{re.escape(username)}$", about, re.MULTILINE)
    if named and f"contest {contest}, place {place if place != '0' else 'none'}," in about:
        return ""
    return f"{contest}, {username}, {place}: {about}"


def _dead(queue: str) -> list[tuple[str, str]]:
    return [(one["body"], one["reason"]) for one in json.loads(queue_command("peek", queue, "--json"))["messages"]]


def queue_command(command: str, *words: str) -> str:
    said = subprocess.run([str(ROOT / "fleet"), "queue", command, INVENTORY, *words], cwd=ROOT, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    assert said.returncode == 0, said.stderr
    return said.stdout


# Submissions


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.thorough)])
def test_one_verdict_for_each_submission(count: int) -> None:
    """While the runner is killed, freezes for longer than its lease, and the grader restarts."""
    put_problem()
    runner, grader = first("runner"), first("grader")
    identifiers = list[str]()
    host = first("frontend")
    for number in range(count):
        submission = json.dumps({
            "problem": PROBLEM, "language": "py3", "source": SUM, "submission_id": f"faults-{secrets.token_hex(8)}",
        })  # fmt: skip
        identifiers.append(json.loads(submission)["submission_id"])
        # Another address would be another limit; here the limit is the web host's own, and not what is tested.
        address = f"127.0.0.{number // 30 + 10}"
        on(host, f"curl -s -m 30 --interface {address} -o /dev/null -H 'Content-Type: application/json' "
                 f"--data {shlex.quote(submission)} http://127.0.0.1/submit")  # fmt: skip
        if number == count // 4:
            kill_9(runner, "omegaup-runner")
        if number == count // 2:
            on(grader, "systemctl restart omegaup-grader")
        if number == count * 3 // 4:
            on(runner, "systemctl kill -s STOP omegaup-runner")
    listed = ", ".join(f"'{identifier}'" for identifier in identifiers)
    # What the frozen runner holds is somebody's again after its lease, or when the watchdog has ended it.
    ready = f"SELECT COUNT(*) FROM Runs WHERE submission_id IN ({listed}) AND status = 'ready' AND verdict = 'AC'"
    eventually("each has its verdict", lambda: sql(database(), ready) == [str(count)], 240 + count)
    runs = f"SELECT COUNT(*) FROM Runs WHERE submission_id IN ({listed})"
    assert sql(database(), runs) == [str(count)]
    settled()


HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"TLE", "RTE", "MLE"}),
    "memory hog": ("x = []\nwhile True: x.append(bytearray(2**20))", {"MLE"}),
    "endless output": ("while True: print('x' * 1000)", {"OLE"}),
    "never ends": ("while True: pass", {"TLE"}),
    "network": ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", {"RFE"}),
    "writes outside": ("open('/usr/local/evil', 'w')", {"RTE"}),
    "writes into /tmp": ("open('/tmp/evil', 'w')", {"RTE"}),
    "reads a key": ("print(open('/etc/omegaup/ssl/runner.key').read())", {"RTE"}),
    "reads another's configuration": ("print(open('/etc/omegaup/runner/config.json').read())", {"RTE"}),
    "kills who watches it": ("import os\nos.kill(os.getppid(), 9)", {"RTE"}),
    "looks for the runner": (
        "import os\nfound = [p for p in os.listdir('/proc') if p.isdigit()"
        " and os.stat('/proc/' + p).st_uid != os.getuid()]\n"
        "assert found, 'nobody to be seen'\nos.kill(int(found[0]), 9)", {"RTE"},
    ),
    "traces": ("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)", {"RFE"}),
    "mounts": ("import ctypes\nctypes.CDLL(None).mount(b'a', b'/mnt', b'tmpfs', 0, None)", {"RFE"}),
}  # fmt: skip
BY_DEFAULT = ("fork bomb", "memory hog", "network", "reads a key")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what in BY_DEFAULT else [pytest.mark.thorough]) for what in HOSTILE]
)
def test_hostile_programs(what: str) -> None:
    source, verdicts = HOSTILE[what]
    put_problem()
    runner = first("runner")
    before = on(runner, "systemctl show -p MainPID --value omegaup-runner")
    identifier = submit(source)
    row = f"SELECT verdict FROM Runs WHERE submission_id = '{identifier}' AND status = 'ready'"
    eventually("a verdict", lambda: bool(sql(database(), row)), 60)
    assert sql(database(), row)[0] in verdicts
    assert on(runner, "systemctl show -p MainPID --value omegaup-runner") == before, "the runner has not noticed"
    assert on(runner, "find /usr/local/evil /tmp/evil 2>/dev/null || true") == ""
    eventually("no box is left", lambda: on(
        runner, "systemctl list-units --plain --no-legend 'omegaup-sandbox@*'") == "", 20)  # fmt: skip
    well = submit(SUM)
    row = f"SELECT verdict FROM Runs WHERE submission_id = '{well}' AND status = 'ready'"
    eventually("the next one is judged", lambda: sql(database(), row) == ["AC"], 60)


# Queues, for people


def test_dead_letters_are_seen_and_put_back() -> None:
    event = {"type": "visit", "event_id": secrets.token_hex(8), "timestamp": int(time.time()), "more": True}
    # Those of the suites' load, which is nothing that a worker knows.
    queue_command("purge", "AnalyticsQueue", "--dead", "--yes")
    publish("analytics", "AnalyticsQueue", json.dumps(event))
    wanted = (json.dumps(event), "keys: missing none, unknown ['more']")
    eventually("it is a dead letter", lambda: wanted in _dead("AnalyticsQueue"), 30)
    queue_command("requeue", "AnalyticsQueue")
    eventually("it is one again", lambda: wanted in _dead("AnalyticsQueue"), 30)
    queue_command("purge", "AnalyticsQueue", "--dead", "--yes")
    assert _dead("AnalyticsQueue") == []
