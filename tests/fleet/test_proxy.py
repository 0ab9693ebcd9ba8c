"""HAProxy on the client hosts as it runs: leads to whoever serves, and to nobody from elsewhere."""

from __future__ import annotations

import csv
import io

import pytest
from testinfra.host import Host

from deploy.model.catalog import PROXY_ADDRESS, SERVICES
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles.proxy import SOCKET

pytestmark = pytest.mark.service("proxy")


def stat(host: Host) -> dict[str, dict[str, str]]:
    """Backend -> server -> state."""
    text = host.check_output(f"echo 'show stat' | socat - UNIX-CONNECT:{SOCKET}").lstrip("# ")
    found: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["svname"] not in {"FRONTEND", "BACKEND"}:
            found.setdefault(row["pxname"], {})[row["svname"]] = row["status"].split()[0]
    return found


def up(host: Host, backend: str) -> list[str]:
    return sorted(name for name, state in stat(host)[backend].items() if state == "UP")


@pytest.mark.parametrize("backend", ["redis-cache", "redis-sessions", "mysql"])
def test_one_server_takes_the_writes(host: Host, spec: HostSpec, backend: str) -> None:
    assert len(up(host, backend)) == 1


@pytest.mark.parametrize("backend", ["rabbitmq", "mysql-reads"])
def test_all_servers_take_the_rest(host: Host, spec: HostSpec, fleet: Fleet, backend: str) -> None:
    service = "rabbitmq" if backend == "rabbitmq" else "mysql"
    assert up(host, backend) == sorted(member.name for member in fleet.members(service))


def test_listens_for_this_host_alone(host: Host, spec: HostSpec) -> None:
    lines = host.check_output("ss -Hltnp").splitlines()
    addresses = {line.split()[3].rpartition(":")[0] for line in lines if '"haproxy"' in line}
    assert addresses == {PROXY_ADDRESS, "127.0.0.1"}


def test_leads_to_the_primary(host: Host, spec: HostSpec) -> None:
    """Through the name and port of the specification, with the application's own credentials."""
    port = SERVICES["redis"].port("sessions").number
    said = host.run(f"printf 'AUTH x y\\r\\n' | timeout 3 socat - TCP:redis:{port}").stdout
    assert "WRONGPASS" in said


def test_password_is_not_for_everybody(host: Host, spec: HostSpec) -> None:
    found = host.file("/etc/haproxy/haproxy.cfg")
    assert (found.user, found.group, found.mode) == ("root", "haproxy", 0o640)
