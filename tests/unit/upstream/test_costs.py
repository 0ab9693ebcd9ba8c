"""What a setting of the upstream profile says that its change costs is what a plan then says. No host is asked."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.converge import compare
from deploy.model.settings import Upstream
from tests.unit.test_apply_classes import COST, DECLARED, costs, imagined, states
from tests.unit.upstream.fleets import UPSTREAM, artifact, fleet

RELEASES = ("backend", "runner", "gitserver", "libinteractive", "frontend", "python")
CHANGES: dict[str, Any] = {
    "url": "https://other.example",
    "csrf_hosts": ["other.example"],
    "omegajail": [artifact("distrib-2.tar.xz"), artifact("rootfs-2.tar.xz")],
    "migrations_read": "0" * 64,
    "releases_kept": 4,
    "php_constants": {"OMEGAUP_OF_OURS": 1},
    **{name: artifact(f"{name}-2") for name in RELEASES},
}
LATER = {"migrations_read": "read when migrations are due", "releases_kept": "read when the next release comes"}
BEFORE = states(fleet())
HOSTS = {name: imagined(state) for name, state in BEFORE.items()}


def test_nothing_differs_from_itself() -> None:
    for name, state in BEFORE.items():
        assert [step.key for step in compare.steps(state, HOSTS[name], "")] == []


@pytest.mark.parametrize("key", Upstream.model_fields)
def test_a_change_costs_what_the_setting_says(key: str) -> None:
    extra = Upstream.model_fields[key].json_schema_extra
    assert isinstance(extra, dict)
    declared = DECLARED[str(extra["applies"])]
    changed = states(fleet(upstream={**UPSTREAM, key: CHANGES[key]}))
    found = [step for name, state in changed.items() for step in compare.steps(state, HOSTS[name], "")]
    if key in LATER:
        assert all(COST[step.step] <= declared for step in found), [step.key for step in found]
        return
    costs(found, declared)
