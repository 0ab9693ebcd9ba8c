"""A fleet with all there is, and what is rendered for its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.converge import desired
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.resources import File

DATA = frozenset({"redis", "sentinel", "rabbitmq", "mysql"})
GROUPS = {
    "data1": DATA, "data2": DATA, "data3": DATA, "app1": frozenset({"gitserver", "broadcaster", "grader", "worker"}),
    "run1": frozenset({"runner"}), "web1": frozenset({"frontend"}), "web2": frozenset({"frontend"}),
    "mon1": frozenset({"monitoring"}), "mon2": frozenset({"monitoring"}),
}  # fmt: skip


def fleet(groups: Mapping[str, frozenset[str]], **settings: Any) -> Fleet:
    return build(
        "test",
        {
            name: HostInput(of, {"ssh_hostname": f"10.0.0.{number}", "monitoring": settings})
            for number, (name, of) in enumerate(groups.items(), 1)
        },
    )


def pair(**settings: Any) -> Fleet:
    """A fleet with all there is, and two monitoring hosts."""
    return fleet(GROUPS, **settings)


def context(fleet: Fleet, host: str) -> Context:
    return desired.context(fleet, fleet.host(host), Live.first_boot(fleet), "CA", lambda name: f"secret of {name}")


RENDERED: dict[tuple[int, str], tuple[Fleet, dict[str, str]]] = {}


def files(fleet: Fleet, host: str) -> dict[str, str]:
    """path -> content; rendered once for each host of a fleet, since that is most of what a test here would take."""
    key = (id(fleet), host)
    if key not in RENDERED:
        RENDERED[key] = fleet, _files(fleet, host)
    return RENDERED[key][1]


def _files(fleet: Fleet, host: str) -> dict[str, str]:
    state = desired.host_state(context(fleet, host))
    return {item.path: item.content for item in state.resources if isinstance(item, File)}


FLEET = pair()
