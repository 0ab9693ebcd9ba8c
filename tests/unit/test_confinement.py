"""What units may do to their hosts, judged by systemd itself, offline. Debian 12's own units lie in data/units.

tests/fleet/test_confinement.py asks the same on running hosts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from deploy.converge.desired import host_state, render, tree
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.resources import File, Unit
from tests.exposure import NOT_CONFINED, OWN, PACKAGED

PACKAGES = Path(__file__).parent / "data/units"
FOLDER = "/etc/systemd/system/"
GROUPS = {
    **{f"data{n}": "redis sentinel rabbitmq mysql" for n in (1, 2, 3)},
    "web1": "frontend", "app1": "gitserver broadcaster grader worker", "run1": "runner", "mon1": "monitoring grafana",
}  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def fleet(**base: object) -> Fleet:
    return build(
        "test",
        {
            name: HostInput(frozenset(groups.split()), {"ssh_hostname": f"10.0.0.{n}", "base": base})
            for n, (name, groups) in enumerate(GROUPS.items(), 1)
        },
    )


@cache
def files(sandbox: bool = True) -> dict[str, str]:
    """Path -> content of all that this project has below systemd's folder."""
    found: dict[str, str] = {}
    built = fleet(sandbox=sandbox)
    for host in built.hosts:
        ctx = Context(built, host, Live.first_boot(built), "", lambda _: "secret", render, tree)
        for item in host_state(ctx).resources:
            if isinstance(item, File) and item.path.startswith(FOLDER) and not item.absent:
                found[item.path.removeprefix(FOLDER)] = item.content
    return found


def exposure(root: Path, unit: str) -> float:
    name = unit.replace("@.", "@x.")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager", name],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    said = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout + done.stderr)
    assert said, done.stdout[-500:] + done.stderr[-500:]
    # What systemd does not understand it leaves out, with a warning.
    assert "Unknown" not in done.stderr, done.stderr
    assert "Failed to parse" not in done.stderr, done.stderr
    return float(said[1])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages' units and all of ours."""
    root = tmp_path_factory.mktemp("host")
    shutil.copytree(PACKAGES, root / "lib/systemd/system")
    for name, content in files().items():
        path = root / "etc/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    shutil.copytree(PACKAGES, root / "lib/systemd/system")
    return root


def test_every_unit_has_a_bound_or_a_reason() -> None:
    ours = {name for name in files() if name.endswith(".service") and "/" not in name}
    assert ours == set(OWN)
    others = {name.split(".d/")[0] for name in files() if ".service.d/" in name}
    instances = {re.sub(r"@.+[.]", "@.", name) for name in others}
    assert instances - ours == set(PACKAGED) | set(NOT_CONFINED)


@pytest.mark.parametrize("unit", OWN)
def test_our_own_units_stay_within_their_bounds(unit: str, host: Path) -> None:
    assert exposure(host, unit) <= OWN[unit]


@pytest.mark.parametrize("unit", PACKAGED)
def test_debians_units_may_do_less_than_the_package_lets_them(unit: str, host: Path, plain: Path) -> None:
    assert exposure(host, unit) <= PACKAGED[unit]
    assert exposure(host, unit) < exposure(plain, unit)


def test_the_judge_finds_a_unit_that_is_not_confined(plain: Path) -> None:
    """A bound that nothing could exceed would prove nothing."""
    assert exposure(plain, "haproxy.service") > 9


def test_what_compiles_code_may_execute_what_it_writes() -> None:
    """Erlang, PHP, HAProxy and MariaDB compile at run time: that option would end or cripple them."""
    for unit in ("rabbitmq-server", "mariadb", "php8.2-fpm", "haproxy", "fleet-door"):
        text = "".join(content for name, content in files().items() if name.startswith(f"{unit}.service"))
        assert "MemoryDenyWriteExecute=true" not in text, unit


def test_no_server_is_ended_for_a_call_that_nobody_foresaw() -> None:
    for unit in ("rabbitmq-server", "mariadb", "nginx", "php8.2-fpm", "haproxy", "redis-cache", "redis-sentinel"):
        text = "".join(content for name, content in files().items() if name.startswith(f"{unit}.service"))
        assert "SystemCallFilter=@system-service" in text, unit
        assert "SystemCallErrorNumber=EPERM" in text, unit


def test_a_setting_takes_it_back_from_debians_units() -> None:
    """For an operator whose server needs more than was foreseen."""
    text = {name: content for name, content in files(sandbox=False).items() if ".service.d/" in name}
    for unit in ("rabbitmq-server", "mariadb", "nginx", "php8.2-fpm", "haproxy"):
        assert not any("SystemCallFilter" in content for name, content in text.items() if name.startswith(unit))


def test_a_change_of_it_restarts_no_replicated_member() -> None:
    """It is stamped where a roll restarts the unit, which then owes it; else it counts from the next start."""
    built = fleet()
    for host in built.hosts:
        ctx = Context(built, host, Live.first_boot(built), "", lambda _: "secret", render, tree)
        for item in host_state(ctx).resources:
            if isinstance(item, Unit) and item.name in PACKAGED:
                paths = {path for path in (*item.restart_files, *item.reload_files) if "sandbox" in path}
                assert paths == set(), "a reload would be taken for having brought it"
            if isinstance(item, Unit) and item.name in {"mariadb.service", "rabbitmq-server.service"}:
                assert item.rolling
                assert f"{FOLDER}{item.name}.d/60-fleet.conf" in item.restart_files
