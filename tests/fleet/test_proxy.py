"""HAProxy on the client hosts as it runs: leads to whoever serves, and to nobody from elsewhere."""

from __future__ import annotations

import csv
import io
import re

import pytest
from testinfra.host import Host

from deploy.model.catalog import PROXY_ADDRESS, SERVICES
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles.proxy import SOCKET
from tests.fleet.conftest import connection
from tests.fleet.test_mysql import ask as database
from tests.fleet.test_redis import info

pytestmark = pytest.mark.service("proxy")


def rows(host: Host) -> list[dict[str, str]]:
    text = host.check_output(f"echo 'show stat' | socat - UNIX-CONNECT:{SOCKET}").lstrip("# ")
    return list(csv.DictReader(io.StringIO(text)))


def backends(host: Host) -> dict[str, str]:
    """Backend -> state of it as a whole."""
    return {row["pxname"]: row["status"] for row in rows(host) if row["svname"] == "BACKEND"}


def stat(host: Host) -> dict[str, dict[str, str]]:
    """Backend -> server -> state."""
    found: dict[str, dict[str, str]] = {}
    for row in rows(host):
        if row["svname"] not in {"FRONTEND", "BACKEND"}:
            found.setdefault(row["pxname"], {})[row["svname"]] = row["status"].split()[0]
    return found


def up(host: Host, backend: str) -> list[str]:
    return sorted(name for name, state in stat(host)[backend].items() if state == "UP")


def leads(member: Host, backend: str) -> bool:
    """What the server itself says, on its own host."""
    if backend == "mysql":
        return database(member, "SELECT @@GLOBAL.read_only") == "0"
    return info(member, backend.removeprefix("redis-"))["role"] == "master"


@pytest.mark.parametrize("backend", ["redis-cache", "redis-sessions", "mysql"])
def test_leads_to_the_primary(host: Host, spec: HostSpec, fleet: Fleet, backend: str) -> None:
    """One server takes the writes: the one that is the primary by its own word, wherever a failover has put it."""
    members = fleet.members(backend.partition("-")[0])
    primaries = [member.name for member in members if leads(connection(member.name), backend)]
    assert len(primaries) == 1
    assert up(host, backend) == primaries


@pytest.mark.parametrize("backend", ["rabbitmq", "mysql-reads"])
def test_all_servers_take_the_rest(host: Host, spec: HostSpec, fleet: Fleet, backend: str) -> None:
    service = "rabbitmq" if backend == "rabbitmq" else "mysql"
    assert up(host, backend) == sorted(member.name for member in fleet.members(service))


def test_listens_for_this_host_alone(host: Host, spec: HostSpec) -> None:
    """The door beside it, which is HAProxy too, is there for others: told apart by its unit's processes."""
    unit = SERVICES["proxy"].units[0]
    own = {path.split("/")[2] for path in host.run(f"grep -lsF {unit} /proc/[0-9]*/cgroup").stdout.split()}
    lines = host.check_output("ss -Hltnp").splitlines()
    addresses = {line.split()[3].rpartition(":")[0] for line in lines if own & set(re.findall(r"pid=(\d+)", line))}
    assert addresses == {PROXY_ADDRESS, "127.0.0.1"}


@pytest.mark.parametrize("instance", ["cache", "sessions"])
def test_names_and_ports_of_the_spec_lead_there(host: Host, spec: HostSpec, instance: str) -> None:
    """A Redis answers, and lets nobody in."""
    port = SERVICES["redis"].port(instance).number
    said = host.run(f"printf 'AUTH x y\\r\\n' | timeout 3 socat - TCP:redis:{port}").stdout
    assert "WRONGPASS" in said


def test_password_is_not_for_everybody(host: Host, spec: HostSpec) -> None:
    found = host.file("/etc/haproxy/haproxy.cfg")
    assert (found.user, found.group, found.mode) == ("root", "haproxy", 0o640)
