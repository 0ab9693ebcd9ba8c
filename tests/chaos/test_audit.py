"""The audit trail on running hosts: a change is there on both sides, an idle run is not, a death shows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from deploy.model.records import HOST_FILE, UNFINISHED
from deploy.roles.base import SSHD_FILE
from tests.chaos.support import INVENTORY, apply, fleet, on
from tests.chaos.test_interrupted import killed_apply

HOST, OTHER = "web1", "web2"


def trail(*options: str) -> list[dict[str, Any]]:
    done = fleet("audit", "--json", *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)["records"]
    return found


def spoil(host: str) -> None:
    """One hand-made change that an apply mends."""
    on(host, "echo '# by hand' >>/etc/sysctl.d/60-fleet.conf")


def test_a_change_is_on_both_sides_with_who_and_what() -> None:
    apply()
    before = {(one["run"], one["host"]) for one in trail()}
    spoil(HOST)
    apply()
    new = [one for one in trail() if (one["run"], one["host"]) not in before]
    assert [one["host"] for one in new] == [HOST], "a host that is not changed has no record"
    (record,) = new
    assert record["outcome"] == "done"
    assert set(record["sources"]) == {"host", "controller"}
    assert "SHA256:" in record["login"], "the key, as the host's sshd said"
    assert len(record["revision"]) == 40
    (step,) = [step for step in record["steps"] if step["key"] == "file:/etc/sysctl.d/60-fleet.conf"]
    now = on(HOST, "sha256sum /etc/sysctl.d/60-fleet.conf").split()[0]
    assert step["sha256"] == now != hashlib.sha256(b"").hexdigest()
    assert record["run"] in on(HOST, "journalctl -q --no-pager -o cat -t fleet-audit -n 2")


def test_an_idle_run_writes_nothing() -> None:
    apply()
    before = {host: on(host, f"stat -c '%Y %s' {HOST_FILE}") for host in (HOST, OTHER)}
    count = len(trail())
    apply()
    assert {host: on(host, f"stat -c '%Y %s' {HOST_FILE}") for host in (HOST, OTHER)} == before
    assert len(trail()) == count


@pytest.mark.thorough
def test_a_controller_that_died_has_a_beginning() -> None:
    apply()
    before = {one["run"] for one in trail("--host", HOST)}
    spoil(HOST)
    # The reload of sshd waits for a new login: time to be killed in.
    on(HOST, f"echo '# by hand' >>{SSHD_FILE}")
    assert killed_apply(INVENTORY, HOST, 1, 0)
    (record,) = [one for one in trail("--host", HOST) if one["run"] not in before]
    assert record["outcome"] == UNFINISHED
    assert "host" in record["sources"]
    spoil(HOST)  # the host may have come to the end of the killed run's steps by itself
    apply()
    assert trail("--host", HOST)[-1]["outcome"] == "done"
