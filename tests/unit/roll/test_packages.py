"""Versions change while their member is out, once on each host; what was installed is kept and comes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import apt, shell
from deploy.converge.desired import host_state, unknown_pins, ways
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model import resources as want
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.resources import File, Package, Phase, StepClass, Unit
from deploy.model.ways import Way
from deploy.procedures.roll.order import Action, Debt, Deed, debts, sequence, whole
from deploy.procedures.roll.taking import Hands, Moved
from tests.unit.roll.fleets import DATA, FLEET, context

PINS = {"redis": "5:7.0.15-1~deb12u7", "rabbitmq-server": "3.10.8-1.1+deb12u1", "mariadb": "1:10.11.18-0+deb12u1"}


def pinned(name: str, pins: dict[str, str]) -> Context:
    fleet = build(
        "test",
        {
            host.name: HostInput(
                frozenset(service.name for service in host.services if service.chosen),
                {"ssh_hostname": host.address, "packages": {"pins": pins}},
            )
            for host in FLEET.hosts
        },
    )
    base = context(name)
    return Context(fleet, fleet.host(name), Live.first_boot(fleet), "", base.secret, base.render, base.files)


def test_all_packages_of_a_source_are_pinned_and_know_what_runs_from_them() -> None:
    items = {item.name: item for item in host_state(pinned("data1", PINS)).resources if isinstance(item, Package)}
    assert {name: items[name].version for name in ("redis-server", "redis-tools")} == dict.fromkeys(
        ("redis-server", "redis-tools"), PINS["redis"]
    )
    assert items["mariadb-backup"].version == PINS["mariadb"]
    assert items["curl"].version is None
    assert items["redis-server"].units == ("redis-cache.service", "redis-sessions.service", "redis-sentinel.service")
    assert items["rabbitmq-server"].units == ("rabbitmq-server.service",)
    assert items["curl"].units == ()


def test_apt_knows_the_pins_before_the_first_package_is_installed() -> None:
    ctx = pinned("data1", PINS)
    file = next(item for item in host_state(ctx).resources if isinstance(item, File) and "preferences" in item.path)
    assert file.order is Phase.PACKAGES
    assert "Package: src:redis\nPin: version 5:7.0.15-1~deb12u7\nPin-Priority: 1001\n" in file.content
    package = Package(name="redis-server", version="1")
    text = shell.batch([
        Step(host="x", resource=package, step=StepClass.CREATE, summary="", script=shell.install(package)),
        Step(host="x", resource=file, step=StepClass.CREATE, summary="", script=shell.put(file)),
    ])  # fmt: skip
    assert text.index("preferences.d") < text.index("install --allow-downgrades redis-server=1")


def test_a_pin_of_what_nobody_has_is_refused() -> None:
    def found_in(pins: dict[str, str]) -> list[FleetError]:
        return unknown_pins(pinned("data1", pins).fleet, lambda name: host_state(pinned(name, pins)))

    assert found_in({}) == []
    assert found_in(PINS) == []
    found = found_in(PINS | {"redis-server": "5:7.0.15-1"})
    assert [error.found for error in found] == ["'redis-server'"]
    assert "redis" in found[0].expected


def pending(host: str) -> list[Step]:
    """A host where another version of Redis is wanted, and a restart of MariaDB is owed."""
    units = ("redis-cache.service", "redis-sessions.service", "redis-sentinel.service")
    package = Package(name="redis-server", source="redis", version="2", units=units)
    tools = Package(name="redis-tools", source="redis", version="2", units=units)
    return [
        Step(host=host, resource=item, step=StepClass.RESTART, summary="version 1 -> 2", pending=True)
        for item in (package, tools, Unit(name="mariadb.service"))
    ]


WAYS = {name: ways(context(name)) for name in DATA}


def test_the_first_way_of_a_host_installs_and_the_others_are_only_restarted() -> None:
    steps = whole(debts({name: pending(name) for name in DATA}, WAYS), WAYS, {"redis-cache": "data1"})
    installs = [(one.host, one.way, one.units) for one in steps if one.action is Action.INSTALL]
    assert installs == [(name, "redis-sentinel", ("redis=2",)) for name in DATA]
    restarts = [(one.host, one.way) for one in steps if one.action is Action.RESTART]
    for name in DATA:
        assert {way for host, way in restarts if host == name} == {
            "redis-cache", "redis-sessions", "redis-sentinel", "mysql",
        }  # fmt: skip
    lines = [one.words() for one in steps if one.action is Action.INSTALL]
    assert lines[0] == "data1: redis-sentinel: install redis=2"


def test_who_leads_and_installs_fetches_first_and_hands_over_before() -> None:
    alone = {name: tuple(way for way in own if way.service == "redis") for name, own in WAYS.items()}
    steps = whole(debts({name: pending(name)[:2] for name in DATA}, alone), alone, {"redis-cache": "data1"})
    installs = [(one.host, one.way) for one in steps if one.action is Action.INSTALL]
    assert installs == [(name, "redis-cache") for name in ("data2", "data3", "data1")]
    one = [step.action for step in steps if (step.host, step.way) == ("data1", "redis-cache")]
    assert one.index(Action.FETCH) < one.index(Action.BEFORE) < one.index(Action.HAND_OVER)
    assert one.index(Action.HAND_OVER) < one.index(Action.INSTALL) < one.index(Action.RESTART)


def test_what_is_kept_is_kept_for_all_that_run_from_it() -> None:
    found = sequence(debts({"data1": pending("data1")}, WAYS), WAYS, {})
    debt = next(one for one in found if one.way == "redis-cache")
    assert debt.packages == ("redis=2",)
    assert debt.shared == ("redis-cache.service", "redis-sessions.service", "redis-sentinel.service")
    assert debt.why == ("package:redis-server: version 1 -> 2", "package:redis-tools: version 1 -> 2")
    assert next(one for one in found if one.way == "mysql").packages == ()


# -- taking the steps ------------------------------------------------------------------------------------------

WAY = Way(
    name="mysql", service="mysql", units=("m.service",), cluster="mysql", handed_over_by="x", source="mariadb",
    may_install="may it", installed="after it", finish="the end",
)  # fmt: skip
DEBT = Debt("data1", "mysql", ("m.service",), packages=("mariadb=2",), shared=("m.service",))


def hands(leader: str) -> tuple[Hands, list[str]]:
    done: list[str] = []

    def do(host: str, key: str, script: str, *_: Any, **__: Any) -> str:
        done.append(script)
        return "1700000000"

    gates: Any = SimpleNamespace(skip=frozenset(), leader=lambda way, host: leader, hold=lambda *_, **__: None)
    run: Any = SimpleNamespace(do=do)
    return Hands(run, gates, "r"), done


def deed(action: Action, *units: str) -> Deed:
    return Deed(action, "data1", "mysql", units)


def test_who_has_come_to_lead_is_given_no_other_version() -> None:
    made, done = hands("data1")
    with pytest.raises(Moved):
        made.take(deed(Action.INSTALL, "mariadb=2"), DEBT, WAY)
    assert done == []


def test_one_that_was_stopped_for_its_packages_is_started_again_whoever_leads() -> None:
    made, done = hands("data2")
    made.take(deed(Action.FETCH, "mariadb=2"), DEBT, WAY)
    assert done[-1].startswith("may it\n")
    made.take(deed(Action.INSTALL, "mariadb=2"), DEBT, WAY)
    assert "systemctl stop -- m.service" in done[-1]
    made.gates.leader = lambda way, member, *, wait=False: "data1"  # type: ignore[method-assign]
    made.take(deed(Action.RESTART, "m.service"), DEBT, WAY)
    assert "systemctl restart -- m.service" in done[-1]
    with pytest.raises(Moved):
        made.take(deed(Action.RESTART, "m.service"), DEBT, WAY)
    made.take(deed(Action.FINISH), DEBT, WAY)
    assert done[-1] == "the end\nafter it"


def test_without_another_version_no_feature_is_switched_on() -> None:
    made, done = hands("data2")
    made.take(deed(Action.FINISH), DEBT, WAY)
    assert done[-1].strip() == "the end"


def test_what_was_kept_before_a_death_is_not_kept_anew() -> None:
    """The packages may be half changed by then."""
    begun = Debt("data1", "mysql", ("m.service",), begun=True, packages=("mariadb=2",), shared=("m.service",))
    made, done = hands("data2")
    made.take(deed(Action.FETCH, "mariadb=2"), begun, WAY)
    script = done[-1]
    assert "may it" not in script
    assert script.index("exit 0\n") < script.index("kept=$(mktemp")


# -- the shell -------------------------------------------------------------------------------------------------


class Machine:
    """apt and dpkg that know what is installed, as files; everything is below one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root, root / "bin"
        self.log = root / "log"
        for name in ("bin", "archives", "installed"):
            (root / name).mkdir()
        self.log.touch()
        self.put("flock", "exit 0")
        self.put("systemctl", f'case $1 in show) echo @0 ;; *) echo "systemctl $*" >>{self.log} ;; esac')
        self.put("dpkg", "exit 0")
        self.put(
            "dpkg-query",
            f"""\
cd {root}/installed
for last; do :; done
case $* in
*source:Package*) for f in *; do echo "ii  redis $f"; done ;;
*Status-Abbrev*) printf 'ii %s' "$(cat "$last")" ;;
*Architecture*) printf amd64 ;;
*Version*) cat "$last" ;;
esac""",
        )
        self.put("dpkg-deb", "case $3 in Package) sed -n 1p $2 ;; Version) sed -n 2p $2 ;; esac")
        self.put(
            "apt-get",
            f"""\
echo "apt-get $*" >>{self.log}
case $* in *=broken*) echo 'it is broken'; exit 1 ;; *--download-only*) exit 0 ;; *' download '*) exit 1 ;; esac
for word; do
  case $word in
  *.deb) sed -n 2p "$word" | tr -d '\\n' >{root}/installed/"$(sed -n 1p "$word")" ;;
  -* | *::*) ;;
  *=*) printf %s "${{word#*=}}" >{root}/installed/"${{word%%=*}}" ;;
  esac
done""",
        )

    def put(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def install(self, **versions: str) -> None:
        for name, version in versions.items():
            (self.root / "installed" / name.replace("_", "-")).write_text(version)

    def archive(self, name: str, version: str) -> None:
        (self.root / "archives" / f"{name}_{version.replace(':', '%3a')}_amd64.deb").write_text(f"{name}\n{version}\n")

    def installed(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.root / "installed").iterdir()}

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        preamble = shell.PREAMBLE[shell.PREAMBLE.index("# outdated UNIT") :]
        text = f"set -eu\n{preamble}\n{script}"
        for real, here in (
            (want.ROLLING, "rolling"), ("/var/cache/apt/archives", "archives"), ("/usr/sbin/policy-rc.d", "policy"),
        ):  # fmt: skip
            text = text.replace(real, str(self.root / here))
        environ = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-s"], input=text, text=True, capture_output=True, check=False, env=environ)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.install(redis_server="5:1", redis_tools="5:1")
    return made


UNITS = ("redis-cache.service", "redis-sessions.service")


def test_there_and_back(machine: Machine) -> None:
    for name in ("redis-server", "redis-tools"):
        machine.archive(name, "5:1")
    done = machine.run(apt.fetch(("redis=5:2",), UNITS, again=False))
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"redis-server": "5:1", "redis-tools": "5:1"}
    assert "--download-only --allow-downgrades redis-server=5:2 redis-tools=5:2" in machine.log.read_text()
    for unit in UNITS:
        assert len(list((machine.root / "rolling" / unit / "packages").iterdir())) == 2
        assert (machine.root / "rolling" / unit / "since").read_text().strip().isdigit()
    done = machine.run(apt.change(("redis=5:2",), UNITS[:1]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"redis-server": "5:2", "redis-tools": "5:2"}
    assert "systemctl stop -- redis-cache.service" in machine.log.read_text()
    machine.log.write_text("")
    done = machine.run(shell.bring_back(UNITS[0], UNITS[:1]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"redis-server": "5:1", "redis-tools": "5:1"}
    assert "systemctl stop -- redis-cache.service" in machine.log.read_text()
    machine.log.write_text("")
    assert machine.run(shell.bring_back(UNITS[1], UNITS[1:])).returncode == 0
    assert "stop" not in machine.log.read_text(), "what has its earlier version already is not stopped for it"
    assert not (machine.root / "policy").exists()


def test_without_a_way_back_nothing_is_begun(machine: Machine) -> None:
    machine.archive("redis-server", "5:1")
    done = machine.run(apt.fetch(("redis=5:2",), UNITS, again=False))
    assert done.returncode == 1
    assert "redis-tools 5:1 can no longer be had, so there would be no way back" in done.stdout
    assert not (machine.root / "rolling").exists()
    assert machine.installed()["redis-server"] == "5:1"


def test_a_package_that_breaks_says_why(machine: Machine) -> None:
    done = machine.run(apt.change(("redis=broken",), UNITS[:1]))
    assert done.returncode == 1
    assert "it is broken" in done.stdout


def test_what_a_broken_package_left_does_not_stop_the_way_back(machine: Machine) -> None:
    machine.archive("redis-server", "5:1")
    machine.archive("redis-tools", "5:1")
    assert machine.run(apt.fetch(("redis=5:2",), UNITS, again=False)).returncode == 0
    machine.install(redis_server="5:2")
    machine.put("dpkg", "echo 'redis-server is not configured'; exit 1")
    done = machine.run(shell.bring_back(UNITS[0], UNITS[:1]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.installed() == {"redis-server": "5:1", "redis-tools": "5:1"}
