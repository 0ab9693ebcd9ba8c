"""A fleet of the real judge, and what is rendered for its hosts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from deploy.converge import desired
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.resources import File, Resource

DATA = frozenset({"redis", "sentinel", "rabbitmq"})
GROUPS: Mapping[str, frozenset[str]] = {
    "data1": DATA,
    "data2": DATA,
    "data3": DATA,
    "db1": frozenset({"mysql"}),
    "web1": frozenset({"frontend"}),
    "web2": frozenset({"frontend"}),
    "app1": frozenset({"gitserver", "broadcaster", "grader", "worker"}),
    "run1": frozenset({"runner"}),
    "mon1": frozenset({"monitoring"}),
}


def artifact(name: str) -> dict[str, str]:
    return {"source": f"https://releases.example/{name}", "sha256": hashlib.sha256(name.encode()).hexdigest()}


UPSTREAM: Mapping[str, Any] = {
    "url": "https://judge.example",
    "omegajail": [artifact("omegajail-distrib.tar.xz"), artifact("omegajail-rootfs.tar.xz")],
    **{name: artifact(name) for name in ("backend", "runner", "gitserver", "libinteractive", "frontend", "python")},
}
DATA_OF_ALL: Mapping[str, Any] = {
    "profile": "upstream",
    "upstream": UPSTREAM,
    "redis": {"maxmemory_policy": "volatile-lru"},
}


def fleet(groups: Mapping[str, frozenset[str]] = GROUPS, **data: Any) -> Fleet:
    """data: sections of settings, over those that a fleet of this profile has to have."""
    return build(
        "test",
        {
            name: HostInput(of, {"ssh_hostname": f"10.0.0.{number}", **copy.deepcopy({**DATA_OF_ALL, **data})})
            for number, (name, of) in enumerate(groups.items(), 1)
        },
    )


def secret(name: str) -> str:
    """As the vault makes them: letters and digits."""
    return "s" + hashlib.sha256(name.encode()).hexdigest()[:31]


def context(of: Fleet, host: str) -> Context:
    return desired.context(of, of.host(host), Live.first_boot(of), "CA", secret)


def resources(of: Fleet, host: str) -> dict[str, Resource]:
    return {item.key: item for item in desired.host_state(context(of, host)).resources}


FLEET = fleet()
_STATES: dict[str, dict[str, Resource]] = {}


def state(host: str) -> dict[str, Resource]:
    """What is wanted of a host of FLEET."""
    if host not in _STATES:
        _STATES[host] = resources(FLEET, host)
    return _STATES[host]


def content(host: str, path: str) -> str:
    item = state(host)[f"file:{path}"]
    assert isinstance(item, File)
    return item.content
