"""Each part out of a web host's reach, refused or silent: what each page answers, and how fast; then all is as before.

The same pages with the parts as fakes: tests/unit/frontend. Here the proxy and the real servers are between.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deploy.model.catalog import SERVICES
from tests.chaos import faults, results
from tests.chaos.application import PROBLEM, first, fresh, put_problem, put_statement
from tests.chaos.failover import database, eventually, hosts_of, replica, the_fleet
from tests.chaos.support import on

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("begun_well")]

WEB = first("frontend")
LIMITS = the_fleet().members("frontend")[0].settings.frontend
SLOWEST = LIMITS.patience + LIMITS.backend_timeout + 1
"""Seconds: a page tries again for its patience, and the last try may take as long as a part is waited for."""
JSON = "-H 'Content-Type: application/json' --data"
ORDER = json.dumps({"contest_id": 7, "certificate_cutoff": 1, "ranking": []})
PAGES = {
    "home": "/", "rank": "/schools/rank?page=1&length=9", "tags": "/tags?prefix=brown",
    "scoreboard": "/contest/brown/scoreboard", "statement": f"/problem/{PROBLEM}/statement/es",
    "submit": "/submit", "certificates": "/certificates", "login": "/login",
}  # fmt: skip
WELL = dict.fromkeys(PAGES, 200) | {"submit": 202, "certificates": 202}
COLD = {"rank", "tags", "scoreboard", "statement"}
"""Cached on a good day."""


def ports(*names: str) -> list[int]:
    return [SERVICES[service].port(port).number for service, _, port in (name.partition(" ") for name in names)]


@dataclass(frozen=True)
class Part:
    """hosts: those that cannot be reached. differs: page -> code, of a good day's, while nothing is cached."""

    hosts: Callable[[], list[str]]
    ports: list[int]
    differs: dict[str, int] = field(default_factory=dict)


DATABASE = ports("mysql mysql", "mysql role")
UNREAD = {"rank": 503, "tags": 503, "scoreboard": 503}
AWAY = {
    "cache": Part(lambda: hosts_of("redis"), ports("redis cache")),
    "sessions": Part(lambda: hosts_of("redis"), ports("redis sessions"), {"login": 503}),
    "broker": Part(
        lambda: hosts_of("rabbitmq"), ports("rabbitmq amqps", "rabbitmq management-tls"), {"certificates": 503}),
    "grader": Part(lambda: hosts_of("grader"), ports("grader https")),
    "gitserver": Part(lambda: hosts_of("gitserver"), ports("gitserver https"), {"statement": 503}),
    "database": Part(lambda: hosts_of("mysql"), DATABASE, UNREAD),
    "primary": Part(lambda: [database()], DATABASE, UNREAD),
    "replica": Part(lambda: [replica()], DATABASE),
}  # fmt: skip


def visited() -> tuple[dict[str, int], dict[str, float]]:
    """Code and seconds of each page."""
    codes, seconds = {}, {}
    submission = json.dumps({
        "problem": PROBLEM, "language": "py3", "source": "print(1)", "submission_id": f"brown-{secrets.token_hex(6)}",
    })  # fmt: skip
    data = {"submit": submission, "certificates": ORDER, "login": json.dumps({"identity_id": 1, "user_id": 1})}
    for name, path in PAGES.items():
        body = f"{JSON} {shlex.quote(data[name])}" if name in data else ""
        # Another address of this host than the others: their limit of submissions is not what is asked here.
        said = on(WEB, f"curl -s -m 60 -o /dev/null -w '%{{http_code}} %{{time_total}}' {body} --interface 127.0.0.77 "
                       f"{shlex.quote(f'http://127.0.0.1{path}')}", check=False)  # fmt: skip
        code, _, time_total = said.partition(" ")
        codes[name], seconds[name] = int(code), float(time_total)
    return codes, seconds


def forget() -> None:
    """Nothing of these pages is cached any more."""
    for pattern in ("school_rank:*", "tags:brown*", "scoreboard:brown*", f"problem:{PROBLEM}:*"):
        fresh(pattern)


def processes() -> str:
    return on(WEB, "systemctl show -p MainPID,NRestarts --value nginx 'php*-fpm.service' haproxy")


@pytest.fixture(scope="module", autouse=True)
def a_statement() -> None:
    put_statement(PROBLEM, "Suma.")
    put_problem()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
@pytest.mark.parametrize("part", AWAY)
def test_each_page_while_a_part_is_away(part: str, silent: bool) -> None:
    away = AWAY[part]
    before = processes()
    eventually("all pages on a good day", lambda: visited()[0] == WELL, 60)
    forget()
    with faults.out_of_reach(WEB, away.hosts(), away.ports, silent=silent):
        codes, seconds = visited()
        again, _ = visited()
    assert codes == WELL | away.differs
    assert again == codes, "asked again, it answers the same"
    assert max(seconds.values()) < SLOWEST, seconds
    back = eventually("all pages afterwards", lambda: visited()[0] == WELL, 60)
    assert processes() == before, "nothing was restarted for it"
    words = "silent" if silent else "refused"
    results.note(f"{part} {words}", **{f"{name}_{codes[name]}_seconds": seconds[name] for name in PAGES}, back=back)
