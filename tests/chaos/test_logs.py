"""Journals under faults: nothing is lost while nobody takes it, and a dead host's last words can be read."""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import Any

import pytest

from deploy.roles import log_store
from tests.chaos import faults, results
from tests.chaos.failover import eventually, settled, the_fleet
from tests.chaos.support import fleet, on

pytestmark = pytest.mark.usefixtures("begun_well")

KEEPER = log_store.store(the_fleet())
assert KEEPER is not None
STORE = KEEPER.name


def stored(host: str, word: str) -> bool:
    files = f"{log_store.STORE}/remote-{log_store.source(host)}[.@]*"
    return word in on(STORE, f"journalctl -q --file '{files}' --since=-30min -o cat SYSLOG_IDENTIFIER=chaos || true")


def say(host: str) -> str:
    word = secrets.token_hex(8)
    on(host, f"logger -t chaos {word}")
    return word


def read(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = fleet("logs", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_line_arrives_soon() -> None:
    for host in the_fleet().hosts:
        word = say(host.name)
        seconds = eventually(f"the line of {host.name} is stored", partial(stored, host.name, word), 60)
        results.note(f"a line of {host.name}", seconds_to_be_stored=seconds)


def test_what_is_said_while_the_store_is_away_arrives_later() -> None:
    hosts = [host.name for host in the_fleet().hosts if host.name != STORE]
    on(STORE, "systemctl stop fleet-log-store")
    try:
        words = {host: say(host) for host in hosts}
    finally:
        on(STORE, "systemctl start fleet-log-store")
    for host, word in words.items():
        eventually(f"the line of {host} is stored", partial(stored, host, word), 90)


def test_the_last_words_of_a_dead_host_are_read() -> None:
    host = the_fleet().members("runner")[0].name
    word = secrets.token_hex(8)
    on(host, f"systemd-run --wait --quiet --unit=chaos-words.service echo {word}")
    files = f"{log_store.STORE}/remote-{log_store.source(host)}[.@]*"
    eventually("they are stored", lambda: word in on(STORE, f"journalctl -q --file '{files}' -o cat -n 200"), 60)
    with faults.power_cut(host):
        code, said = read("chaos-words.service", "--since", "30min", "--limit", host)
        assert code == 1
        assert [line["text"] for line in said["lines"] if line["stored"] and line["text"] == word] == [word]
        assert host in said["untold"][0]
    settled()


def test_a_host_cannot_write_into_anothers_file() -> None:
    """With its own certificate and lines that name the other: they land in its own file."""
    mine, other = (host.name for host in the_fleet().members("frontend")[:2])
    word = secrets.token_hex(8)
    export = f"__REALTIME_TIMESTAMP=$(date +%s%6N)\\n_HOSTNAME={other}\\nSYSLOG_IDENTIFIER=chaos\\nMESSAGE={word}\\n\\n"
    pair = (
        "--cacert /etc/omegaup/ssl/ca.crt --cert /etc/omegaup/ssl/log-sender.crt --key /etc/omegaup/ssl/log-sender.key"
    )
    send = (
        f"curl -sf {pair} -H 'Content-Type: application/vnd.fdo.journal' --data-binary @- https://{STORE}:19532/upload"
    )
    on(mine, f'printf "{export}" | {send}')
    eventually("the line is stored", lambda: stored(mine, word), 30)
    assert not stored(other, word)


def test_lines_of_all_hosts_come_in_order() -> None:
    code, said = read("frontend", "--since", "1h")
    assert code == 0
    times = [line["time"] for line in said["lines"]]
    assert times == sorted(times)
