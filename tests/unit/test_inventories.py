"""The inventories that are delivered."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from deploy.converge import desired
from deploy.converge.inventory import folder, load
from deploy.model.fleet import Live


@pytest.mark.parametrize("name", ["lab", "single", "production", "upstream"])
def test_every_waiver_excuses_from_something(name: str) -> None:
    """One that matches nothing is a mistake in its name, and what it was meant for is not excused.

    Hosts of one inventory share their waivers, whether or not each has the resource.
    """
    fleet = load(folder(name))[1]
    states = [
        desired.host_state(desired.context(fleet, host, Live.first_boot(fleet), "CA", lambda secret: secret))
        for host in fleet.hosts
    ]
    keys = {resource.key for state in states for resource in state.resources}
    for waiver in {waiver.what for state in states for waiver in state.waivers}:
        assert any(fnmatchcase(key, waiver) for key in keys), waiver
