"""Hosts are booted anew one at a time, behind the gates of all that they serve; also where the controller dies."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import boot, remote
from deploy.converge.desired import ways
from deploy.converge.remote import Reply
from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import Live
from deploy.model.resources import StepClass, Unit
from deploy.procedures.roll import journal, mending, notes, reboots
from deploy.procedures.roll import run as rolls
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.reboots import Need
from deploy.procedures.roll.steps import Options
from deploy.procedures.roll.taking import Moved
from tests.unit.roll.fleets import DATA, FLEET, context

WAYS = {host.name: ways(context(host.name)) for host in FLEET.hosts}
LEADING = {"redis-cache": "data1", "redis-sessions": "data2", "mysql": "data1"}


def need(host: str, **more: bool) -> Need:
    return Need(host, "asked for by linux-image", "b1", **more)


def test_who_leads_least_comes_first_and_the_canary_where_it_leads_nothing() -> None:
    found = [need(host.name) for host in FLEET.hosts]
    assert [one.host for one in reboots.ordered(found, WAYS, LEADING)] == ["data3", "app1", "data2", "data1"]
    assert [one.host for one in reboots.ordered(found, WAYS, LEADING, "app1")] == ["app1", "data3", "data2", "data1"]
    assert reboots.ordered(found, WAYS, LEADING, "data1")[-1].host == "data1"
    begun = [*found[1:], need("data1", begun=True)]
    assert reboots.ordered(begun, WAYS, LEADING)[0].host == "data1"


def test_every_gate_is_asked_and_every_lead_handed_over_before_the_boot() -> None:
    steps = reboots.deeds(need("data1"), WAYS["data1"], reboots.heirs([need("data1")], WAYS, LEADING), canary=True)
    names = [way.name for way in WAYS["data1"]]
    before, after = steps[: steps.index(Deed(Action.REBOOT, "data1", "reboot"))], steps[len(names) :]
    assert [one.way for one in before if one.action is Action.BEFORE] == names
    handed = {one.way: one.to for one in before if one.action is Action.HAND_OVER}
    assert handed == {"redis-cache": "data3", "mysql": "data2"}
    assert {"rabbitmq", "mysql"} <= {one.way for one in before if one.action is Action.DRAIN}
    assert [one.way for one in after if one.action is Action.AFTER] == names
    assert [one.way for one in after if one.action is Action.WATCH] == names
    assert steps[-1].action is Action.SETTLE


def test_what_was_booted_before_a_death_is_not_booted_again() -> None:
    steps = reboots.deeds(need("data1", begun=True, booted=True), WAYS["data1"], LEADING, canary=False)
    assert {one.action for one in steps} == {Action.RETURN, Action.AFTER, Action.UNDRAIN, Action.SETTLE}


CLUSTERS = ("redis-cache", "redis-sessions", "mysql")


@pytest.mark.parametrize("leaders", list(itertools.product(DATA, repeat=3)), ids=" ".join)
def test_nobody_is_booted_who_leads_and_no_lead_moves_more_than_twice(leaders: tuple[str, ...]) -> None:
    leading = dict(zip(CLUSTERS, leaders, strict=True))
    moved: list[str] = []
    booted: list[str] = []
    for one in reboots.whole([need(name) for name in DATA], WAYS, leading):
        if one.action is Action.HAND_OVER:
            assert leading[one.way] == one.host
            assert one.to in set(DATA) - {one.host}
            assert one.to in booted or len(booted) < 2, "whoever has it need not hand it over again"
            leading[one.way] = one.to
            moved.append(one.way)
        elif one.action is Action.REBOOT:
            assert one.host not in leading.values()
            booted.append(one.host)
    assert sorted(booted) == list(DATA)
    assert max(map(moved.count, CLUSTERS)) <= 2


def test_a_lead_goes_to_who_is_not_booted_and_has_the_fewest() -> None:
    leading = {"redis-cache": "data1", "redis-sessions": "data2", "mysql": "data1"}
    assert leading | reboots.heirs([need("data1")], WAYS, leading) == {
        "redis-cache": "data3", "redis-sessions": "data2", "mysql": "data2"
    }  # fmt: skip
    assert leading | reboots.heirs([need("data1", begun=True, booted=True)], WAYS, leading) == leading


def test_no_lead_goes_to_who_never_leads() -> None:
    never = {
        host: tuple(replace(way, never_leads=way.never_leads or host == "data3") for way in own)
        for host, own in WAYS.items()
    }
    after = reboots.heirs([need("data1")], never, LEADING)
    assert after["redis-cache"] == after["mysql"] == "data2"
    alone = {"data1": WAYS["data1"]}
    assert reboots.heirs([need("data1")], alone, LEADING)["mysql"] == ""


def test_services_that_nobody_else_has_are_named() -> None:
    assert "grader" in reboots.lonely(FLEET, "app1", WAYS["app1"])
    assert "redis" not in reboots.lonely(FLEET, "data1", WAYS["data1"])


@pytest.mark.parametrize(
    ("required", "kernels", "virtual", "said"),
    [
        ("linux-image\nlibc6\nlibc6\n", "6.1.0-9", False, "asked for by libc6 linux-image"),
        (None, "6.1.0-9", False, ""),
        (None, "6.1.0-9 6.1.0-10", False, "runs 6.1.0-9, installed is 6.1.0-10"),
        (None, "6.1.0-9 6.1.0-10", True, ""),
        (None, "", False, ""),
    ],
)
def test_what_a_host_says(tmp_path: Path, required: str | None, kernels: str, virtual: bool, said: str) -> None:
    for name in ("run", "boot", "note"):
        (tmp_path / name).mkdir()
    if required is not None:
        (tmp_path / "run/reboot-required").touch()
        (tmp_path / "run/reboot-required.pkgs").write_text(required)
    for name in kernels.split():
        (tmp_path / f"boot/vmlinuz-{name}").touch()
    stubs = f"uname() {{ echo 6.1.0-9; }}\nsystemd-detect-virt() {{ {'true' if virtual else 'false'}; }}\n"
    script = reboots.ASK.replace("/run/", f"{tmp_path}/run/").replace("/boot/vm", f"{tmp_path}/boot/vm")
    script = script.replace("s|^/boot/", f"s|^{tmp_path}/boot/").replace(notes.FOLDER, str(tmp_path / "note"))
    # A function may not have a dash in its name everywhere.
    script = (stubs + script).replace("systemd-detect-virt", "virtual")
    done = subprocess.run(["sh", "-euc", script], text=True, capture_output=True, check=True)
    lines = dict(line.split("\t") for line in done.stdout.splitlines())
    assert lines["why"].strip() == said
    assert lines["noted"] == ""
    assert len(lines["boot"]) == 36


# -- a whole roll, hosts imitated ------------------------------------------------------------------------------


class Died(BaseException):
    """As kill -9."""


class Hosts:
    def __init__(self) -> None:
        self.boots = dict.fromkeys(DATA, 1)
        self.required = set(DATA)
        self.noted: dict[str, int] = {}
        self.leader = "data1"
        self.locked, self.asked = False, dict[str, str]()
        self.drained: set[str] = set()
        self.fails: tuple[Action, str] | None = None
        self.steps, self.dies_at, self.when = 0, -1, "before"
        self.moves = 0

    def around(self, work: Callable[[], Any]) -> Any:
        """Dies at its step: before, or after what it does."""
        self.steps += 1
        if self.steps == self.dies_at and self.when == "before":
            raise Died
        said = work()
        if self.steps == self.dies_at:
            raise Died
        return said

    def take(self, deed: Deed, debt: Debt | None, way: Any, *, back: bool = False) -> None:
        self.around(lambda: self._take(deed))

    def _take(self, deed: Deed) -> None:
        if self.fails == (deed.action, deed.host):
            raise FleetError(host=deed.host, subject="gate", found="it is unwell", expected="it to be well")
        match deed.action:
            case Action.HAND_OVER:
                self.leader = deed.to
            case Action.DRAIN:
                self.drained.add(deed.host)
            case Action.UNDRAIN:
                self.drained.discard(deed.host)
            case Action.UNLOCK:
                self.locked = False

    def do(self, host: str, key: str, script: str, *_: Any, **__: Any) -> str:
        return str(self.around(lambda: self._do(host, key)) or "")

    def _do(self, host: str, key: str) -> None:
        if key == "reboot":
            assert self.leader != host, "booted while it leads"
            assert set(self.noted) == {host}, "in hand, and nobody else"
            self.boots[host] += 1
            self.required.discard(host)
        elif key == "reboot: settle":
            self.noted.pop(host, None)
        elif key == "reboot: note":
            self.noted.setdefault(host, self.boots[host])

    def stays(self, way: Any, host: str, out: bool) -> None:
        if self.moves and way.cluster == "redis-cache":
            self.moves -= 1
            raise Moved


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts()
    use(made, monkeypatch)
    return made


def use(made: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {name: tuple(way for way in WAYS[name] if way.name in {"redis-cache", "rabbitmq"}) for name in DATA}
    monkeypatch.setattr(reboots, "ways_of", lambda run: mine)
    monkeypatch.setattr(rolls, "ways_of", lambda run: mine)
    monkeypatch.setattr(boot, "back", lambda host, before, seconds: None)
    monkeypatch.setattr(mending, "look", lambda *_: None)

    def ask(host: str, script: str, seconds: int = 0) -> Reply:
        if script.startswith("date"):
            return Reply(True, ["1700000000"], [])
        why = "asked for by linux-image" if host in made.required else ""
        return Reply(True, [f"boot\t{made.boots[host]}", f"noted\t{made.noted.get(host, '')}", f"why\t{why}"], [])

    def left(_: Any) -> notes.Left:
        locks = {"data1": {"roll": "r", "who": "w", **made.asked}} if made.locked else {}
        return notes.Left(locks, frozenset((name, "reboot") for name in made.noted), ())

    def lock(_: Any, roll: str, who: str, asked: dict[str, str], *, take_over: bool) -> None:
        assert take_over or not made.locked
        made.locked, made.asked = True, asked

    monkeypatch.setattr(remote, "run", ask)
    monkeypatch.setattr(notes, "read", left)
    monkeypatch.setattr(notes, "lock", lock)
    taking = SimpleNamespace(take=made.take, on_all=lambda *_: None, stays=made.stays, started={})
    monkeypatch.setattr(reboots, "Hands", lambda *_: taking)


def controller(made: Hosts, folder: Path, plan: dict[str, list[Step]] | None = None) -> Any:
    run = SimpleNamespace(
        fleet=FLEET, hosts={name: name for name in DATA}, plan=lambda: plan or {}, context=context, failures=[],
        do=made.do, targets=frozenset(DATA),
    )  # fmt: skip
    run.fleet = SimpleNamespace(
        hosts=[FLEET.host(name) for name in DATA], members=FLEET.members, services=FLEET.services, host=FLEET.host
    )

    def look() -> None:
        run.live = Live({"redis-cache": made.leader}, frozenset({"redis-cache"}))

    run.look_all = look
    look()
    return SimpleNamespace(run=run, path=folder)


def gated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    watched: list[str] = []
    monkeypatch.setattr(
        "deploy.procedures.roll.steps.Gates",
        lambda *_: SimpleNamespace(hold=lambda way, host, **more: watched.append(f"{host} {way.name}")),
    )
    return watched


def test_all_are_booted_once_and_dry_says_so(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = gated(monkeypatch)
    opened = controller(hosts, tmp_path)
    planned = reboots.dry(opened, Options())
    found = reboots.roll(opened, Options())
    assert found.how == "done"
    assert [one.host for one in found.steps if one.action is Action.REBOOT] == ["data2", "data3", "data1"]
    assert list(found.steps) == planned
    assert hosts.boots == dict.fromkeys(DATA, 2)
    assert watched == ["data2 redis-cache", "data2 rabbitmq"], "the first is the canary"
    assert (hosts.noted, hosts.locked, hosts.drained) == ({}, False, set())


def test_only_those_that_need_it_or_are_named(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated(monkeypatch)
    hosts.required = {"data3"}
    assert reboots.roll(controller(hosts, tmp_path), Options()).how == "done"
    assert hosts.boots == {"data1": 1, "data2": 1, "data3": 2}
    assert reboots.roll(controller(hosts, tmp_path), Options()).how == "nothing"
    assert reboots.roll(controller(hosts, tmp_path), Options(hosts=("data2",))).how == "done"
    assert hosts.boots == {"data1": 1, "data2": 2, "data3": 2}
    with pytest.raises(FleetError, match="--hosts: found 'data9'"):
        reboots.roll(controller(hosts, tmp_path), Options(hosts=("data9",)))


def test_where_restarts_are_owed_nothing_is_booted(hosts: Hosts, tmp_path: Path) -> None:
    owed = Step(host="data1", resource=Unit(name="x"), step=StepClass.RESTART, summary="to load /x", pending=True)
    with pytest.raises(FleetError, match="could not go back from it"):
        reboots.roll(controller(hosts, tmp_path, {"data1": [owed]}), Options())


@pytest.mark.parametrize("action", [Action.BEFORE, Action.HAND_OVER, Action.DRAIN])
def test_what_fails_before_the_boot_leaves_all_as_it_was(
    action: Action, hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated(monkeypatch)
    hosts.required = {"data1"}
    hosts.fails = (action, "data1")
    found = reboots.roll(controller(hosts, tmp_path), Options())
    assert found.how == "stopped"
    assert found.errors[0].found == "it is unwell"
    assert hosts.boots["data1"] == 1
    assert not hosts.locked


def test_a_host_that_is_not_well_after_its_boot_ends_the_roll(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated(monkeypatch)
    hosts.fails = (Action.AFTER, "data2")
    with pytest.raises(FleetErrors, match=r"it is unwell.*\n.*no other host was or will be touched"):
        reboots.roll(controller(hosts, tmp_path), Options())
    assert hosts.boots == {"data1": 1, "data2": 2, "data3": 1}
    assert (hosts.locked, set(hosts.noted)) == (True, {"data2"})
    hosts.fails = None
    limited = controller(hosts, tmp_path)
    limited.run.targets = frozenset(DATA[:2])
    for again in (rolls.resume, rolls.abort):
        with pytest.raises(FleetError, match=r"a reboot that has not ended, and data3 left out.* without --limit"):
            again(limited, Options())
    assert rolls.resume(controller(hosts, tmp_path), Options()).how == "done"
    assert hosts.boots == dict.fromkeys(DATA, 2)


def test_who_comes_to_lead_is_handed_over_first(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated(monkeypatch)
    hosts.moves = 1
    assert reboots.roll(controller(hosts, tmp_path), Options()).how == "done"
    hosts.required = {"data3"}
    hosts.moves = 99
    stopped = reboots.roll(controller(hosts, tmp_path), Options())
    assert stopped.how == "stopped"
    assert "again and again" in stopped.errors[0].message()
    assert hosts.boots["data3"] == 2


@pytest.mark.parametrize("named", [(), DATA])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["resume", "abort"])
def test_killed_at_every_step(
    way: str, when: str, named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated(monkeypatch)
    monkeypatch.setattr("os.fsync", lambda _: None)
    whole = Hosts()
    use(whole, monkeypatch)
    reboots.roll(controller(whole, tmp_path), Options(hosts=named))
    assert whole.steps > 20
    for number in range(1, whole.steps + 1):
        hosts = Hosts()
        use(hosts, monkeypatch)
        hosts.dies_at, hosts.when = number, when
        journal.path_of(tmp_path).unlink(missing_ok=True)
        with pytest.raises(Died):
            reboots.roll(controller(hosts, tmp_path), Options(hosts=named))
        tidying = number > whole.steps - 2
        boots = dict(hosts.boots)
        in_hand = set(hosts.noted)
        with pytest.raises(FleetError, match="has not ended"):
            reboots.roll(controller(hosts, tmp_path), Options(hosts=named))
        if way == "resume":
            assert rolls.resume(controller(hosts, tmp_path), Options()).how == "done", number
            assert hosts.boots == dict.fromkeys(DATA, 2), (number, "each once")
        elif tidying:
            with pytest.raises(FleetError, match="a roll that was complete"):
                rolls.abort(controller(hosts, tmp_path), Options())
            continue
        else:
            assert rolls.abort(controller(hosts, tmp_path), Options()).how == "aborted", number
            assert hosts.boots == boots, "nobody is booted"
            assert hosts.drained.isdisjoint(in_hand)
        assert (hosts.noted, hosts.locked) == ({}, False), number
        assert journal.unfinished(tmp_path) is None


def test_another_controller_goes_on_without_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it died between two hosts: with those that need it still."""
    gated(monkeypatch)
    for number in range(2, 200):
        hosts = Hosts()
        use(hosts, monkeypatch)
        hosts.dies_at, hosts.when = number, "after"
        journal.path_of(tmp_path).unlink(missing_ok=True)
        try:
            reboots.roll(controller(hosts, tmp_path), Options())
        except Died:
            journal.path_of(tmp_path).unlink()
            if hosts.locked:
                assert rolls.resume(controller(hosts, tmp_path), Options()).how == "done", number
        else:
            break
        assert hosts.boots == dict.fromkeys(DATA, 2), (number, "each once")
        assert (hosts.noted, hosts.locked) == ({}, False), number
    assert number > 20


# -- finding it again ------------------------------------------------------------------------------------------


def test_it_is_back_when_a_new_login_sees_another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = FleetError(host="a", subject="x", found="no route", expected="y")
    answers: Iterator[str | FleetError] = iter(["b1", gone, "", "b2", "b3"])
    clock = [0.0]
    logins: list[str] = []

    def current(_: Any) -> str:
        found = next(answers)
        if isinstance(found, FleetError):
            raise found
        return found

    def disconnect() -> None:
        raise OSError("it is gone")

    host: Any = SimpleNamespace(name="a", disconnect=disconnect, connected=True)
    monkeypatch.setattr(boot, "current", current)
    monkeypatch.setattr(boot, "connect_one", lambda one: logins.append(str(one.connected)))
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    boot.back(host, "b1", 60)
    assert logins == ["False"] * 4
    assert next(answers) == "b3"


def test_one_that_never_comes_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    host: Any = SimpleNamespace(name="data2", disconnect=lambda: None, connected=False)

    def refused(_: Any) -> None:
        raise FleetError(host="data2", subject="SSH", found="no route to it", expected="a connection")

    monkeypatch.setattr(boot, "connect_one", refused)
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(FleetError, match="data2: reboot: found after 60 s still no route to it"):
        boot.back(host, "b1", 60)
