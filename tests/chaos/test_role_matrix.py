"""Who gets in where, with what it really has: every host with each of its own certificates at every TLS port, and a
machine without any role. What has to come of it is computed from the catalog.

Keys do not leave their hosts: each host asks by itself. What no certificate of the fleet could show (one that has
ended, one of another CA) is in test_mutual_tls.py; that ports without TLS are closed to whom the catalog does not name,
in test_firewall.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from deploy.model.catalog import ANYONE, SSL_DIR, Port, Service, Tls
from deploy.model.fleet import HostSpec
from deploy.roles.common import CA_FILE
from tests.chaos import attackers
from tests.chaos.attackers import Place
from tests.chaos.failover import the_fleet
from tests.chaos.stranger import INTERFACE, Stranger, stranger
from tests.chaos.support import on, sampled
from tests.chaos.test_firewall import allowed, ports
from tests.chaos.test_mutual_tls import ELSEWHERE, PROBES, REDIS

HOSTS = the_fleet().hosts
NOBODY = "nobody"
"""Who shows no certificate."""
CLOSED, NO_TLS, NOT_ALLOWED, SERVED = "closed", "no handshake", "403", "200"
TOGETHER = 5
"""Calls that a host makes at a time."""

pytestmark = pytest.mark.skipif(len(HOSTS) == 1, reason="a fleet of one host has no flows between hosts")


@dataclass(frozen=True)
class Target:
    host: HostSpec
    service: Service
    port: Port

    @property
    def name(self) -> str:
        return f"{self.service.name} {self.port.name} {self.host.name}"

    @property
    def path(self) -> str:
        return PROBES.get((self.service.name, self.port.name), ("", "/"))[1]


TARGETS = tuple(
    Target(host, service, port)
    for host in HOSTS
    for service in host.services
    for port in service.ports
    if port.tls is Tls.MUTUAL and not port.loopback
)


def speaks_http(target: Target) -> bool:
    """Whether a role can be told from an HTTP code there; elsewhere the firewall alone is asked here."""
    key = (target.service.name, target.port.name)
    return key in PROBES or (key in ELSEWHERE and bool(target.port.networks))


def reachable(source: HostSpec, target: Target) -> bool:
    """Whether the firewall has to let it through; nobody's keeps a host from itself."""
    return source == target.host or target.port.number in allowed(source, target.host)


def wanted(source: HostSpec, role: str, target: Target) -> str:
    """What the catalog says of this host, with the certificate of one of its services, at this port."""
    if not reachable(source, target):
        return CLOSED
    identity = next((service.identity for service in source.services if service.name == role), None)
    if identity is None or not identity.client:
        return NO_TLS
    # Its own service always may (see Port); a port of another kind of client (people) is for no host's role.
    return SERVED if role in target.port.clients | {target.service.name} else NOT_ALLOWED


def roles(source: HostSpec) -> list[str]:
    return [NOBODY, *(service.name for service in source.services if service.identity)]


def asked(source: HostSpec) -> list[tuple[str, Target]]:
    """Each role at each port; where the port is closed to the host, the first role that a client has is enough."""
    found = []
    for target in TARGETS:
        if not reachable(source, target):
            found.append((roles(source)[-1], target))
        elif speaks_http(target):
            found += [(role, target) for role in roles(source)]
    return found


def calls(source: HostSpec, what: list[tuple[str, Target]]) -> str:
    """A script that makes them, a few at a time, and prints `NUMBER CODE SECONDS_TO_CONNECT` for each."""
    lines = []
    for number, (role, target) in enumerate(what):
        pair = "" if role == NOBODY else f"--cert {SSL_DIR}/{role}.crt --key {SSL_DIR}/{role}.key"
        url = shlex.quote(f"https://{target.host.name}:{target.port.number}{target.path}")
        lines.append(
            f"curl -s -m 10 --connect-timeout 3 -o /dev/null -w '{number} %{{http_code}} %{{time_connect}}\\n' "
            f"--noproxy '*' --cacert {CA_FILE} {pair} {url} &"
        )
        if number % TOGETHER == TOGETHER - 1:
            lines.append("wait")
    return "\n".join([*lines, "wait"])


def seen(source: HostSpec, what: list[tuple[str, Target]]) -> list[str]:
    """What came of each call."""
    answers: dict[int, str] = {}
    for line in on(source.name, calls(source, what)).splitlines():
        number, code, seconds = line.split()
        refused = NO_TLS if float(seconds) > 0 else CLOSED
        answers[int(number)] = refused if code == "000" else code
    return [answers.get(number, "no answer") for number in range(len(what))]


def differences(source: HostSpec, what: list[tuple[str, Target]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(role, port) -> (what there is to be, what there is), where the two differ."""
    found = {}
    for (role, target), there_is in zip(what, seen(source, what), strict=True):
        to_be = wanted(source, role, target)
        if there_is != to_be:
            found[role, target.name] = (to_be, there_is)
    return found


def test_every_tls_port_is_asked() -> None:
    """A port that the catalog gets is in this matrix, or is said to be asked elsewhere."""
    found = {(one.service.name, one.port.name) for one in TARGETS if not one.port.starttls}
    redis = {key for key in found if key[1] in REDIS}
    assert found - redis - PROBES.keys() - set(ELSEWHERE) == set()


@pytest.mark.parametrize("source", sampled(HOSTS, 4))
def test_exactly_the_catalogs_flows_work(source: HostSpec) -> None:
    what = asked(source)
    assert {wanted(source, role, target) for role, target in what} >= {CLOSED, NO_TLS, NOT_ALLOWED}
    found = differences(source, what)
    # Once more, those alone: a call of many at a time may have been too slow.
    again = [(role, target) for role, target in what if (role, target.name) in found]
    assert differences(source, again) == {}


def test_each_flow_is_used_by_somebody() -> None:
    """The matrix is not empty where it matters: each port of each service has one host at least that is served."""
    served = {
        (target.service.name, target.port.name)
        for source in HOSTS
        for role, target in asked(source)
        if wanted(source, role, target) == SERVED
    }
    assert served == {
        (one.service.name, one.port.name) for one in TARGETS if (one.service.name, one.port.name) in PROBES
    }


@contextmanager
def hole(host: str, source: str, port: int) -> Iterator[None]:
    """As long as the block lasts, the firewall lets in whom it should not."""
    rule = f"ip saddr {source} tcp dport {port} accept"
    on(host, f"nft insert rule inet fleet input {rule}")
    try:
        yield
    finally:
        on(host, "nft -f /etc/nftables.conf")


def test_a_hole_in_the_firewall_is_seen() -> None:
    """The twin: a port that is opened to one host by hand, for which its roles are still the wrong ones."""
    source = the_fleet().members("frontend")[0]
    target = next(one for one in TARGETS if one.service.name == "runner")
    call = [(role, target) for role in roles(source)]
    assert differences(source, call) == {}
    with hole(target.host.name, source.address, target.port.number):
        assert differences(source, call)[NOBODY, target.name] == (CLOSED, NO_TLS)
        assert differences(source, call)["frontend", target.name] == (CLOSED, NOT_ALLOWED)
    assert differences(source, call) == {}


def test_a_role_that_is_let_in_is_seen() -> None:
    """The twin: what the matrix says of a role is what that role gets, not what another does."""
    source = the_fleet().members("frontend")[0]
    target = next(one for one in TARGETS if one.service.name == "gitserver")
    answers = dict(zip(roles(source), seen(source, [(role, target) for role in roles(source)]), strict=True))
    assert answers["frontend"] == SERVED
    assert answers["log-sender"] == NOT_ALLOWED
    assert answers["door"] == NO_TLS


@pytest.fixture(scope="module")
def machine() -> Iterator[Stranger]:
    with stranger() as found:
        yield found


def ssh_ports(host: HostSpec) -> set[int]:
    """Where anybody may try to log in."""
    return set() if host.settings.base.ssh_from else set(host.settings.base.ssh_ports)


def open_to_anyone(host: HostSpec) -> set[int]:
    """What a machine that is no host of the fleet can connect to."""
    found = {port.number for service in host.services for port in service.ports if ANYONE in port.clients}
    return found | ssh_ports(host)


def every_port(host: HostSpec) -> set[int]:
    """All numbers that the catalog knows, on whatever host; tools' ranges whole."""
    known = {number for other in HOSTS for number in ports(other)}
    ranges = {n for one in host.services for port in one.ports if port.last for n in range(port.number, port.last + 1)}
    return known | ranges | set(host.settings.base.ssh_ports)


def test_a_machine_without_a_role_gets_in_nowhere(machine: Stranger) -> None:
    """But where anyone may: the front, and where operators log in."""
    places: list[Place] = [(host.address, port) for host in HOSTS for port in sorted(every_port(host))]
    to_be = {(host.address, port) for host in HOSTS for port in open_to_anyone(host)}
    assert attackers.knocked(machine.enter, places) == to_be


def test_nor_by_an_address_that_nobody_gave(machine: Stranger) -> None:
    """IPv6 of the link is there on every host, asked for or not."""
    places: dict[Place, bool] = {}
    for host in HOSTS:
        lines = on(host.name, "ip -6 -o addr show scope link up | awk '$2 != \"lo\" { print $4 }'").split()
        for line in lines:
            address = f"{line.partition('/')[0]}%{INTERFACE}"
            places.update({(address, port): port in open_to_anyone(host) for port in every_port(host)})
    found = attackers.knocked(machine.enter, list(places))
    assert {place for place in found if not places[place]} == set()
