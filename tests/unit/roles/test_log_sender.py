"""The sender of the journal ends whenever nobody takes what it sends; systemd starts it anew each time."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from deploy.converge.compare import steps
from deploy.converge.desired import host_state
from deploy.model.observed import HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import HostState, StepClass, Unit
from deploy.roles.log_sender import UNIT
from tests.unit.roles.test_rabbitmq_tls import context


@cache
def sender() -> Unit:
    return next(item for item in host_state(context()).resources if item.key == f"unit:{UNIT}")  # type: ignore[return-value]


def owed(unit: Unit, active: str, sub: str, stamps: dict[str, str]) -> list[StepClass]:
    state = UnitState("loaded", active, sub, "enabled", False, 0, 1, stamps)
    seen = Snapshot("data1", HostFactsSeen("debian", "12", 2**33, 2**33), units={UNIT: state})
    return [step.step for step in steps(HostState("data1", (unit,)), seen, "")]


@pytest.mark.parametrize("sub", ["auto-restart", "start-pre", "start"])
def test_a_moment_between_two_tries_is_no_difference(sub: str) -> None:
    assert owed(sender(), "activating", sub, {}) == []


@pytest.mark.parametrize("active", ["inactive", "failed", "deactivating"])
def test_one_that_nobody_starts_is_started(active: str) -> None:
    assert owed(sender(), active, "dead", {}) == [StepClass.CREATE]


def test_another_unit_that_starts_again_and_again_is_a_difference() -> None:
    """The twin: without saying so, it is."""
    other = dataclasses.replace(sender(), returns=False)
    assert owed(other, "activating", "auto-restart", {}) == [StepClass.CREATE]
