"""Another version of Redis, and of MariaDB, on all hosts, under load, and back; one that breaks goes back by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.converge import apt
from deploy.procedures.roll.order import Action
from deploy.procedures.roll.run import Options
from tests.chaos import results
from tests.chaos.failover import fresh_table, load, settled, the_fleet, visiting
from tests.chaos.promises import lost
from tests.chaos.rolling import DATA, UNITS, applied, roll, rolled, started
from tests.chaos.support import UNBOUNDED, altered, apply, fleet, on
from tests.chaos.watching import watching

QUICK = (
    UNBOUNDED
    + """
roll = {"canary_seconds": 5, "read_interval": 0.5, "after_seconds": 60}
"""
)


@dataclass(frozen=True)
class Software:
    """A Debian source package, the one of its packages that tells its version, and what of the load it concerns."""

    source: str
    package: str
    services: tuple[str, ...]
    kinds: tuple[str, ...]

    def installed(self) -> set[str]:
        return {on(host, f"dpkg-query -W -f='${{Version}}' {self.package}") for host in DATA}

    def others(self) -> list[str]:
        """Versions that are to be had besides the one that is installed on all."""
        listed = on(DATA[0], f"apt-cache madison {self.package} | awk '{{ print $3 }}' | sort -uV").split()
        return [one for one in listed if one not in self.installed()]

    def pinned(self, folder: Path, version: str) -> Path:
        folder.mkdir(exist_ok=True)
        return altered(folder, QUICK + f'packages = {{"pins": {{"{self.source}": "{version}"}}}}')


REDIS = Software("redis", "redis-server", ("redis", "sentinel"), ("sessions", "cache"))
MARIADB = Software("mariadb", "mariadb-server", ("mysql",), ("rows",))


@pytest.fixture
def software(request: pytest.FixtureRequest) -> Software:
    chosen: Software = getattr(request, "param", REDIS)
    return chosen


@pytest.fixture
def versions(software: Software, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The one that is installed, and another; the first is there again afterwards."""
    settled()
    (before,) = software.installed()
    if not software.others():
        pytest.skip(f"the archive that the hosts know has one version of {software.source} only")
    yield before, software.others()[0]
    copy = software.pinned(tmp_path / "back", before)
    assert fleet("apply", inventory=copy).returncode == 0
    assert roll(copy)[0] == 0
    assert software.installed() == {before}
    apply()
    settled()


@pytest.mark.thorough
@pytest.mark.parametrize("software", [REDIS, MARIADB], ids=lambda one: one.source, indirect=True)
def test_another_version_everywhere_and_nothing_is_lost(
    software: Software, versions: tuple[str, str], tmp_path: Path
) -> None:
    before, after = versions
    copy = software.pinned(tmp_path / "there", after)
    fresh_table()
    running = started()
    assert fleet("apply", inventory=copy).returncode == 0
    assert started() == running, "apply restarts nobody"
    assert software.installed() == {before}, "and installs nothing under a member that serves"
    steps = json.loads(fleet("plan", "--json", inventory=copy).stdout)["steps"]
    shown = {step["summary"] for step in steps if step["key"] == f"package:{software.package}"}
    assert shown == {f"version {before} -> {after}"}
    _, planned = roll(copy, "--dry")
    with load("web1", "versions", *software.kinds) as writers, visiting("web1") as visits:
        with watching(the_fleet()) as watch:
            code, report = roll(copy)
        assert code == 0, report
        ledgers = writers.end()
    assert report["steps"] == planned["steps"]
    assert software.installed() == {after}
    deleted = "ls -l /proc/$(systemctl show -P MainPID $u)/exe | grep -c deleted"
    for host in DATA:
        for unit in (unit for service in software.services for unit in UNITS[service]):
            assert on(host, f"u={unit}; {deleted}", check=False).strip() == "0", "it runs what is installed"
    assert fleet("plan", inventory=copy).returncode == 0
    for service in software.services:
        assert watch.most(service) <= 1, watch.out
    assert {kind: ids for kind, ids in lost(ledgers, *ledgers).items() if ids} == {}
    for kind, ledger in ledgers.items():
        results.note(f"another version of {software.source}: {kind}", seconds_without_writes=ledger.gap())
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}


@pytest.mark.thorough
def test_a_package_that_breaks_goes_back_by_itself(
    software: Software, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = versions
    copy = str(software.pinned(tmp_path / "bad", after))
    real = apt.change
    with monkeypatch.context() as patch:
        patch.setattr(
            apt, "change",
            lambda pairs, stop: real(pairs, stop) + "\nprintf '#!/bin/sh\\nexit 1\\n' >/usr/bin/redis-check-rdb",
        )  # fmt: skip
        assert applied(copy).errors == ()
        found = rolled(Options(service="redis"), copy)
    assert found.how == "stopped"
    assert "has its earlier files again and is well" in found.errors[0].message()
    assert len({one.host for one in found.steps if one.action is Action.INSTALL}) == 1
    assert software.installed() == {before}
    assert fleet("status", "--wait", "30").returncode == 0


def test_a_forbidden_jump_is_refused_with_the_path(tmp_path: Path) -> None:
    copy = altered(tmp_path, 'packages = {"pins": {"rabbitmq-server": "3.13.7-1"}}')
    done = fleet("plan", inventory=copy)
    assert done.returncode == 1
    assert "3.10 -> 3.11 -> 3.12 -> 3.13" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.thorough
def test_without_the_earlier_package_nothing_is_begun(
    software: Software, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive no longer has it: there would be no way back."""
    _, after = versions
    copy = str(software.pinned(tmp_path / "gone", after))
    running = started()
    real = apt.fetch

    def fetch(pairs: Sequence[str], units: Sequence[str], *, again: bool) -> str:
        script = real(pairs, units, again=again)
        return script.replace("/var/cache/apt/archives/", "/nonexistent/").replace("apt-get -q download", "false")

    with monkeypatch.context() as patch:
        patch.setattr(apt, "fetch", fetch)
        assert applied(copy).errors == ()
        found = rolled(Options(service="redis"), copy)
    assert found.how == "stopped"
    assert "there would be no way back" in found.errors[0].message()
    assert started() == running
