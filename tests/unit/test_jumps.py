"""Which changes of version are refused, and that the message names the path that is allowed. Pure."""

from __future__ import annotations

import doctest

import pytest

from deploy.converge import compare
from deploy.errors import FleetError
from deploy.model import jumps
from deploy.model.observed import HostFactsSeen, PackageState, Snapshot, UnitState
from deploy.model.resources import HostState, Package, StepClass

FACTS = HostFactsSeen("debian", "12", 2**33, 2**33)


def test_the_examples_hold() -> None:
    assert doctest.testmod(jumps).failed == 0


@pytest.mark.parametrize(
    ("source", "have", "want"),
    [
        ("redis", "5:7.0.15-1~deb12u7", "5:7.0.15-1~deb12u10"),
        ("redis", "5:7.0.15-1~deb12u10", "5:7.0.15-1~deb12u7"),
        ("redis", "5:6.0.16-1", "5:7.0.15-1"),
        ("mariadb", "1:10.6.20-0", "1:11.4.5-1"),
        ("mariadb", "1:10.11.19-0+deb12u1", "1:10.11.18-0+deb12u1"),
        ("rabbitmq-server", "3.10.8-1.1", "3.11.18-1"),
        ("rabbitmq-server", "3.11.18-1", "3.12.14-1"),
        ("rabbitmq-server", "3.13.7-1", "4.0.5-1"),
        ("mysql", "8.0.40-1", "8.4.3-1"),
        ("nginx", "1.22.1-9", "0.9-1"),
        ("haproxy", "2.6.12-1", "3.0.0-1"),
        ("redis", "unreadable", "5:7.0.15-1"),
    ],
)
def test_allowed(source: str, have: str, want: str) -> None:
    assert jumps.refusal("data1", source, have, want) is None


@pytest.mark.parametrize(
    ("source", "have", "want", "words"),
    [
        ("rabbitmq-server", "3.10.8-1.1", "3.13.7-1", "3.10 -> 3.11 -> 3.12 -> 3.13"),
        ("rabbitmq-server", "3.12.1-1", "4.1.0-1", "3.12 -> 3.13 -> 4.0 -> 4.1"),
        ("rabbitmq-server", "3.11.5-1", "3.12.1-1", "3.11.5 -> 3.11.18 -> 3.12.1"),
        ("rabbitmq-server", "3.11.5-1", "3.10.8-1", "pin 3.11 or later"),
        ("mysql", "5.7.44-1", "8.4.3-1", "5.7 -> 8.0 -> 8.4"),
        ("mariadb", "1:11.4.5-1", "1:10.11.19-0", "pin 11.4 or later"),
        ("redis", "5:7.2.4-1", "5:7.0.15-1", "pin 7.2 or later"),
    ],
)
def test_refused_with_the_path(source: str, have: str, want: str, words: str) -> None:
    error = jumps.refusal("data1", source, have, want)
    assert error is not None
    message = error.message()
    assert message.startswith(f"data1: package {source}: found {have} -> {want}")
    assert words in message


def steps(package: Package, have: str, running: bool) -> list[tuple[StepClass, bool, str, bool]]:
    unit = UnitState("loaded", "active" if running else "inactive", "", "enabled", False, 1, 1, {})
    seen = Snapshot("data1", FACTS, packages={package.name: PackageState(have, True, False)}, units={"a.service": unit})
    found = compare.steps(HostState("data1", (package,)), seen, "")
    return [(step.step, step.pending, step.summary, bool(step.script)) for step in found]


def test_another_version_of_what_serves_is_left_to_roll_and_shown_from_and_to() -> None:
    package = Package(name="redis-server", source="redis", version="5:7.0.15-2", units=("a.service",))
    assert steps(package, "5:7.0.15-1", running=True) == [
        (StepClass.RESTART, True, "version 5:7.0.15-1 -> 5:7.0.15-2", False)
    ]
    assert steps(package, "5:7.0.15-1", running=False) == [
        (StepClass.WRITE, False, "version 5:7.0.15-1 -> 5:7.0.15-2", True)
    ]
    assert steps(package, "5:7.0.15-2", running=True) == []


def test_a_plan_with_a_forbidden_jump_is_refused() -> None:
    package = Package(name="rabbitmq-server", version="3.13.7-1", units=("a.service",))
    with pytest.raises(FleetError, match=r"3\.10 -> 3\.11 -> 3\.12 -> 3\.13"):
        steps(package, "3.10.8-1", running=True)
