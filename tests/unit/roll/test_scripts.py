"""The shell of every way is shell; what a host says of a roll that was left is read as it was meant."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import remote, shell
from deploy.converge.desired import ways
from deploy.converge.remote import Reply
from deploy.errors import FleetError
from deploy.procedures.roll import notes
from deploy.procedures.roll.notes import Kept
from deploy.procedures.roll.refusals import nobody_rolls
from tests.unit.roll.fleets import DATA, FLEET, context

SCRIPTS = {
    f"{host.name} {way.name} {number}": script
    for host in FLEET.hosts
    for way in ways(context(host.name))
    for number, script in enumerate(
        [
            *(act.script for stage in way.drain for act in stage),
            *(act.script for act in (*way.undrain, *way.hand_over, *way.undo)),
            *(act.script for heir in way.heirs.values() for act in (*heir.prefer, *heir.forget)),
            *way.restart.values(), way.after_back, way.finish,
            *(shell.bring_back(unit) + shell.forget_kept(unit) for unit in way.units),
        ]
    )
    if script
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_one(name: str) -> None:
    text = shell.single("a step", SCRIPTS[name])
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_lead_is_handed_over_in_the_order_that_loses_nothing() -> None:
    way = next(way for way in ways(context("data2")) if way.name == "redis-sessions")
    pause, move, follow = way.hand_over
    assert "CLIENT PAUSE" in pause.script
    assert "SENTINEL FAILOVER sessions" in move.script
    assert 'REPLICAOF "$SAID" 6380' in follow.script
    assert follow.script.index("REPLICAOF") < follow.script.index("UNPAUSE")
    assert "UNPAUSE" in way.undo[0].script


@pytest.mark.parametrize(("priority", "sleeps"), [("1", 0), ("100", 49)])
def test_the_sentinel_is_waited_for_until_it_knows_the_heir(tmp_path: Path, priority: str, sleeps: int) -> None:
    """Another replica may well have that priority; where the sentinel does not learn of it, the roll goes on."""
    way = next(way for way in ways(context("data2")) if way.name == "redis-sessions")
    assert set(way.heirs) == {"data1", "data3"}
    rank, known = way.heirs["data3"].prefer
    assert (rank.host, known.host) == ("data3", way.hand_over[1].host), "whoever decides has to know"
    assert "CONFIG SET replica-priority 1 " in rank.script
    assert "CONFIG SET replica-priority 100 " in way.heirs["data3"].forget[0].script
    said = "".join(
        f"name\n{ip}:6380\nip\n{ip}\nport\n6380\nslave-priority\n{rank}\nslave-repl-offset\n1\n"
        for ip, rank in (("10.0.0.11", "1"), ("10.0.0.13", priority))
    )
    (tmp_path / "redis-cli").write_text(f"#!/bin/sh\nprintf '{said}'\n")
    (tmp_path / "redis-cli").chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", "sleep() { echo slept; }\n" + known.script], text=True, capture_output=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.count("slept") == sleeps


def answered(monkeypatch: pytest.MonkeyPatch, **lines: list[str]) -> Any:
    monkeypatch.setattr(
        remote, "run", lambda host, script, seconds=0: Reply(True, [*lines.get(host, []), "end"], [])
    )  # fmt: skip
    return SimpleNamespace(hosts={name: name for name in DATA})


def test_what_was_left_is_read_from_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    run = answered(
        monkeypatch,
        data1=['note\tlock\t{"roll": "r1", "who": "ana@desk", "since": "then"}', "note\tmysql\tr1"],
        data2=["kept\tmariadb.service\t1700000100 1700000000", "kept\tredis-cache.service\t1600000000 1700000000"],
    )
    left = notes.read(run)
    assert left.locks == {"data1": {"roll": "r1", "who": "ana@desk", "since": "then"}}
    assert left.noted == frozenset({("data1", "mysql")})
    assert left.kept == (
        Kept("data2", "mariadb.service", touched=True),
        Kept("data2", "redis-cache.service", touched=False),
    )


def test_a_host_that_says_half_of_it_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "run", lambda host, script, seconds=0: Reply(True, ["note\tlock\t{}"], []))
    run: Any = SimpleNamespace(hosts={"data1": "data1"})
    with pytest.raises(FleetError, match="what a roll has left"):
        notes.read(run)


def test_the_holder_of_a_lock_is_named() -> None:
    error = notes.held("data1", {"roll": "r1", "who": "ana@desk", "since": "then"})
    assert "data1: roll: found a roll of ana@desk since then (r1) that has not ended" in error.message()
    assert "--resume goes on" in error.message()


def test_of_two_controllers_the_second_leaves_nothing_behind() -> None:
    done: list[tuple[str, str]] = []

    def do(name: str, key: str, script: str, **_: Any) -> str:
        done.append((name, key))
        if key == "roll: lock" and name == "data2":
            raise FleetError(host=name, subject=key, found='{"who": "eve@other"}', expected="x")
        return ""

    run: Any = SimpleNamespace(hosts=dict.fromkeys(DATA), do=do)
    with pytest.raises(FleetError, match="eve@other"):
        notes.lock(run, "r2", "ana@desk", {"service": "redis"}, take_over=False)
    released = {name for name, key in done if key == "roll: unlock"}
    assert released == {"data1", "data3"}


@pytest.mark.parametrize(
    ("holder", "goes"), [("ana@desk, process 1", True), ("ana@desk, process 12", False), (None, False)]
)
def test_nothing_is_changed_under_another_controllers_lock(tmp_path: Path, holder: str | None, goes: bool) -> None:
    if holder:
        (tmp_path / "lock").write_text(json.dumps({"roll": "r", "who": holder}))
    script = notes.ours("ana@desk, process 1").replace(notes.FOLDER, str(tmp_path))
    done = subprocess.run(["sh", "-euc", script + "echo went"], text=True, capture_output=True, check=False)
    assert (done.returncode == 0) == goes
    assert ("went" in done.stdout) == goes
    if holder and not goes:
        assert holder in done.stdout


def test_another_controller_sees_what_is_being_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[tuple[str, str]] = []
    run: Any = SimpleNamespace(do=lambda host, key, script, **_: done.append((host, script)))
    for words in ("data2: mysql: drain", "data2: mysql: restart mariadb.service"):
        notes.tell(run, "data2", words)
    for _, script in done:
        subprocess.run(["sh", "-euc", script.replace(notes.FOLDER, str(tmp_path))], check=True)
    assert (tmp_path / notes.STEPS).read_text().splitlines()[-1] == "data2: mysql: restart mariadb.service"
    lock = 'note\tlock\t{"roll": "r1", "who": "ana@desk", "since": "then"}'
    left = notes.read(
        answered(monkeypatch, data1=[lock], data2=[lock, "note\tsteps\tdata2: mysql: restart mariadb.service"])
    )
    assert left.noted == frozenset()
    with pytest.raises(FleetError, match=r"^data2: roll: .*its last step here: data2: mysql: restart mariadb.service"):
        nobody_rolls(left)
