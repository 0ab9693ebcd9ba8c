"""Every host against every port of every other: open exactly where the catalog has a flow."""

from __future__ import annotations

from functools import cache

import pytest

from deploy.converge.inventory import folder, load
from deploy.model.fleet import Fleet, HostSpec
from tests.chaos.support import INVENTORY, on


@cache
def fleet() -> Fleet:
    return load(folder(INVENTORY))[1]


def ports(host: HostSpec) -> set[int]:
    return {port.number for service in host.services for port in service.ports} | {9999}


def allowed(source: HostSpec, target: HostSpec) -> set[int]:
    found = set()
    for service in target.services:
        for port in service.ports:
            sources = fleet().sources(service, port, target)
            if not port.loopback and not port.last and (sources is None or source.address in sources):
                found.add(port.number)
    return found


HOSTS = fleet().hosts


@pytest.mark.skipif(len(HOSTS) == 1, reason="a fleet of one host has no flows between hosts")
@pytest.mark.parametrize("source", HOSTS, ids=[host.name for host in HOSTS])
def test_exactly_the_catalogs_flows_are_open(source: HostSpec) -> None:
    others = [host for host in HOSTS if host is not source]
    tries = [(target, port) for target in others for port in sorted(ports(target))]
    script = "\n".join(
        f"( timeout 2 bash -c ': <>/dev/tcp/{target.address}/{port}' 2>/dev/null && echo {target.name} {port}; : ) &"
        for target, port in tries
    )
    answers = {tuple(line.split()) for line in on(source.name, f"{script}\nwait").splitlines()}
    wanted = {(target.name, str(port)) for target in others for port in allowed(source, target)}
    assert answers - wanted == set(), "open although no flow allows it"
    assert wanted - answers == set(), "closed although a flow needs it"
