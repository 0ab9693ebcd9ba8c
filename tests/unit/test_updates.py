"""Unattended updates: apt itself reads the policy; no package of a server that is rolled is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.converge.desired import host_state, render
from deploy.model.fleet import Context, Live
from deploy.model.resources import File, HostState, Package, Unit
from deploy.roles.updates import CONFIG, LEFT_TO_ROLL, NEEDRESTART
from tests.unit.test_confinement import fleet


def state(name: str, updates: str = "security") -> HostState:
    built = fleet(updates=updates)
    ctx = Context(built, built.host(name), Live.first_boot(built), "", lambda _: "secret", render, lambda _: {})
    return host_state(ctx)


def content(found: HostState, path: str) -> str:
    return next(item.content for item in found.resources if isinstance(item, File) and item.path == path)


def read(folder: Path, text: str) -> str:
    """All that apt knows with Debian's own files and this one."""
    (folder / "20auto-upgrades").write_text('APT::Periodic::Unattended-Upgrade "1";\n')
    (folder / "50unattended-upgrades").write_text(
        'Unattended-Upgrade::Origins-Pattern { "origin=Debian,codename=${distro_codename},label=Debian"; };\n'
        'Unattended-Upgrade::Package-Blacklist { "libc6"; };\nUnattended-Upgrade::Automatic-Reboot "true";\n'
    )
    (folder / Path(CONFIG).name).write_text(text)
    done = subprocess.run(
        ["apt-config", "dump"], text=True, capture_output=True, check=True,
        env={"APT_CONFIG": str(folder / "main"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="apt is not here")
@pytest.mark.parametrize("policy", ["security", "off"])
def test_apt_takes_it_over_debians_own(policy: str, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "main").write_text(f'Dir::Etc::parts "{parts}";\n')
    said = read(parts, content(state("data1", policy), CONFIG))
    if policy == "off":
        assert 'APT::Periodic::Unattended-Upgrade "0";' in said
        return
    assert 'APT::Periodic::Unattended-Upgrade "1";' in said
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in said
    origins = re.findall(r'^Unattended-Upgrade::Origins-Pattern:: "(.*)";$', said, flags=re.M)
    assert origins == ["origin=Debian,codename=${distro_codename}-security,label=Debian-Security"]
    left = re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', said, flags=re.M)
    assert left == list(LEFT_TO_ROLL)


def test_no_package_of_a_server_that_is_rolled_is_updated_unattended() -> None:
    """As the tool matches: a pattern from the beginning of the name."""
    patterns = [re.compile(name) for name in LEFT_TO_ROLL]

    def left(name: str) -> bool:
        return any(pattern.match(name) for pattern in patterns)

    for host in fleet().hosts:
        for item in state(host.name).resources:
            if isinstance(item, Package) and item.units:
                assert left(item.name), f"{item.name}: {item.units} run from it"
    assert left("haproxy")
    assert left("redis-tools")
    assert not left("openssl")
    assert not left("linux-image-amd64")


def test_the_tool_is_there_only_where_it_is_wanted() -> None:
    def wants(policy: str) -> set[str]:
        found = state("data1", policy).resources
        return {item.name for item in found if isinstance(item, Package | Unit)}

    assert {"unattended-upgrades", "apt-daily-upgrade.timer"} <= wants("security")
    assert not {"unattended-upgrades", "apt-daily-upgrade.timer"} & wants("off")


@pytest.mark.parametrize("policy", ["security", "off"])
def test_needrestart_restarts_nothing(policy: str, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(content(state("data1", policy), NEEDRESTART))
    script = f'our %nrconf = (restart => "a"); do "{tmp_path}/conf" or die; print $nrconf{{restart}}'
    done = subprocess.run(["perl", "-e", script], text=True, capture_output=True, check=True)
    assert done.stdout == "l"
