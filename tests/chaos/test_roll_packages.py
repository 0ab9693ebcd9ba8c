"""Another version of Redis on all hosts, under load, and back; one that breaks goes back by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy.converge import apt
from deploy.procedures.roll.order import Action
from deploy.procedures.roll.run import Options
from tests.chaos import results
from tests.chaos.failover import load, settled, the_fleet, visiting
from tests.chaos.rolling import applied, roll, rolled, started
from tests.chaos.support import UNBOUNDED, altered, apply, fleet, on
from tests.chaos.test_redis_failover import missing
from tests.chaos.watching import watching

DATA = ("data1", "data2", "data3")
QUICK = (
    UNBOUNDED
    + """
roll = {"canary_seconds": 5, "read_interval": 0.5, "after_seconds": 60}
"""
)


def installed(package: str = "redis-server") -> set[str]:
    return {on(host, f"dpkg-query -W -f='${{Version}}' {package}") for host in DATA}


def others() -> list[str]:
    """Versions that are to be had besides the one that is installed on all."""
    listed = on("data1", "apt-cache madison redis-server | awk '{ print $3 }' | sort -uV").split()
    return [one for one in listed if one not in installed()]


def pinned(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    return altered(folder, QUICK + f'packages = {{"pins": {{"redis": "{version}"}}}}')


@pytest.fixture
def versions(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The one that is installed, and another; the first is there again afterwards."""
    settled()
    (before,) = installed()
    if not others():
        pytest.skip("the archive that the hosts know has one version of Redis only")
    yield before, others()[0]
    copy = pinned(tmp_path / "back", before)
    assert fleet("apply", inventory=copy).returncode == 0
    assert roll(copy)[0] == 0
    assert installed() == {before}
    apply()
    settled()


@pytest.mark.thorough
def test_another_version_everywhere_and_nothing_is_lost(versions: tuple[str, str], tmp_path: Path) -> None:
    before, after = versions
    copy = pinned(tmp_path / "there", after)
    running = started()
    assert fleet("apply", inventory=copy).returncode == 0
    assert started() == running, "apply restarts nobody"
    assert installed() == {before}, "and installs nothing under a member that serves"
    steps = json.loads(fleet("plan", "--json", inventory=copy).stdout)["steps"]
    shown = {step["summary"] for step in steps if step["key"] == "package:redis-server"}
    assert shown == {f"version {before} -> {after}"}
    _, planned = roll(copy, "--dry")
    with load("web1", "versions", "sessions", "cache") as writers, visiting("web1") as visits:
        with watching(the_fleet()) as watch:
            code, report = roll(copy)
        assert code == 0, report
        ledgers = writers.end()
    assert report["steps"] == planned["steps"]
    assert installed() == {after}
    deleted = "ls -l /proc/$(systemctl show -P MainPID $u)/exe | grep -c deleted"
    for host in DATA:
        for unit in ("redis-cache", "redis-sessions", "redis-sentinel"):
            assert on(host, f"u={unit}; {deleted}", check=False).strip() == "0", "it runs what is installed"
    assert fleet("plan", inventory=copy).returncode == 0
    for service in ("redis", "sentinel"):
        assert watch.most(service) <= 1, watch.out
    for kind in ("sessions", "cache"):
        assert missing(set(ledgers[kind].kept), kind) == set()
        results.note(f"another version of Redis: {kind}", seconds_without_writes=ledgers[kind].gap())
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}


@pytest.mark.thorough
def test_a_package_that_breaks_goes_back_by_itself(
    versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = versions
    copy = str(pinned(tmp_path / "bad", after))
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
    assert installed() == {before}
    assert fleet("status", "--wait", "30").returncode == 0


def test_a_forbidden_jump_is_refused_with_the_path(tmp_path: Path) -> None:
    copy = altered(tmp_path, 'packages = {"pins": {"rabbitmq-server": "3.13.7-1"}}')
    done = fleet("plan", inventory=copy)
    assert done.returncode == 1
    assert "3.10 -> 3.11 -> 3.12 -> 3.13" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.thorough
def test_without_the_earlier_package_nothing_is_begun(
    versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive no longer has it: there would be no way back."""
    _, after = versions
    copy = str(pinned(tmp_path / "gone", after))
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
