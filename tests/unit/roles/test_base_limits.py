"""The open files of each unit's process: who has fewer than the unit says is owed a restart, and roll can pay it."""

from __future__ import annotations

import subprocess

import pytest

from deploy.converge import compare
from deploy.converge.desired import host_state, render, ways
from deploy.model.observed import Answer, Snapshot
from deploy.model.resources import HostState, Parameter
from deploy.procedures.roll.order import debts
from tests.unit.roll.fleets import DATA, FACTS, context

SHOWN = """\
Id=here.service
MainPID=PID
LimitNOFILESoft=LIMIT

MainPID=0
Id=away.service
LimitNOFILESoft=infinity
"""


@pytest.mark.parametrize(("limit", "said"), [("1", "as the unit says"), ("999999999", "of 999999999")])
def test_each_unit_is_answered_for(limit: str, said: str) -> None:
    text = SHOWN.replace("LIMIT", limit)
    script = render("base/limits.sh.j2", units=["here.service", "away.service"])
    stub = f"systemctl() {{ cat <<END\n{text.replace('PID=PID', 'PID=$$')}END\n}}\n"
    done = subprocess.run(["sh", "-c", f"set -eu\n{stub}{script}"], text=True, capture_output=True, check=True)
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    assert answers["away.service"] == "as the unit says"
    assert answers["here.service"].endswith(said)


def test_a_limit_that_is_not_had_is_a_debt_of_its_unit() -> None:
    limits = [
        item
        for item in host_state(context("data1")).resources
        if isinstance(item, Parameter) and item.query.id == "limits"
    ]
    values = {item.name: "as the unit says" for item in limits} | {"mariadb.service": "20000 of 65536"}
    seen = Snapshot("data1", FACTS, answers={"limits": Answer(values)})
    steps = compare.steps(HostState("data1", tuple(limits)), seen, "")
    assert [step.key for step in steps] == ["limit:nofile:mariadb.service"]
    found = debts({"data1": steps}, {"data1": ways(context("data1"))})
    assert [(one.way, one.units) for one in found] == [("mysql", ("mariadb.service",))]


@pytest.mark.parametrize("host", [*DATA, "app1"])
def test_whatever_waits_for_roll_has_a_unit_that_some_way_restarts(host: str) -> None:
    """A debt that nobody pays would be reported for ever."""
    paid = {unit for way in ways(context(host)) for unit in way.units}
    for item in host_state(context(host)).resources:
        if isinstance(item, Parameter) and item.step.value == "restart" and item.rolling:
            assert (item.unit or item.query.unit) in paid, item.key
