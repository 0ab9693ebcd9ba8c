"""Hosts that are not what the inventory thinks: one clear message, exit code 1, and what was live stays live."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from deploy.converge import shell
from deploy.converge.inventory import folder
from deploy.converge.step import Step
from deploy.model.resources import Package, StepClass
from tests.chaos.support import INVENTORY, ROOT, SPEC, drift, fleet, footprint, on


@pytest.fixture
def altered(tmp_path: Path) -> Path:
    """A copy of the lab's inventory, with the same keys, to be changed by a test."""
    copy = tmp_path / folder(INVENTORY).name
    shutil.copytree(folder(INVENTORY), copy)
    return copy


def append(inventory: Path, text: str, file: str = "group_data/all.py") -> Path:
    with (inventory / file).open("a") as handle:
        handle.write(f"\n{text}\n")
    return inventory


def refused(done: subprocess.CompletedProcess[str], *messages: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 1, said[-2000:]
    assert "Traceback" not in said
    for message in messages:
        assert message in said, said[-2000:]
    assert ": found " in said
    assert ", expected " in said


@contextmanager
def undone(host: str, script: str) -> Iterator[None]:
    try:
        yield
    finally:
        on(host, script)


def test_unreachable_host() -> None:
    lab.stop(SPEC, "mon1")
    try:
        before = footprint("web1")
        refused(fleet("apply"), "mon1: SSH to")
        assert footprint("web1") == before
    finally:
        lab.start(SPEC, "mon1")


def test_wrong_host_key(altered: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    public = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    known.write_text("".join(f"{address} {public}\n" for address in SPEC.hosts.values()))
    text = (altered / "inventory.py").read_text()
    (altered / "inventory.py").write_text(text.replace('str(LAB / "ssh/known_hosts")', repr(str(known))))
    refused(fleet("plan", "--limit", "web1", inventory=altered), "the host key that is pinned for it")


def test_no_sudo(altered: Path) -> None:
    text = (altered / "inventory.py").read_text()
    (altered / "inventory.py").write_text(text.replace('"ssh_user": "root"', '"ssh_user": "nosudo", "_sudo": True'))
    refused(fleet("plan", "--limit", "web1", inventory=altered), "sudo", "NOPASSWD")


def test_not_root(altered: Path) -> None:
    text = (altered / "inventory.py").read_text()
    (altered / "inventory.py").write_text(text.replace('"ssh_user": "root"', '"ssh_user": "nosudo"'))
    refused(fleet("plan", "--limit", "web1", inventory=altered), "root")


def test_deploying_user_with_sudo_sees_the_same(altered: Path) -> None:
    text = (altered / "inventory.py").read_text()
    (altered / "inventory.py").write_text(text.replace('"ssh_user": "root"', '"ssh_user": "deploy", "_sudo": True'))
    done = fleet("plan", "--limit", "web1", inventory=altered)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("found", "text"), [("debian 11", 'ID=debian\nVERSION_ID="11"'), ("ubuntu 24.04", 'ID=ubuntu\nVERSION_ID="24.04"')]
)
def test_wrong_release(found: str, text: str) -> None:
    on("web2", f"cp -P /etc/os-release /root/os-release; rm /etc/os-release; printf '%s\\n' '{text}' >/etc/os-release")
    with undone("web2", "rm /etc/os-release; mv /root/os-release /etc/os-release"):
        refused(fleet("apply", "--limit", "web2"), f"web2: operating system: found {found}")


@pytest.mark.parametrize(("shift", "words"), [(3600, "ahead of"), (-7200, "behind")])
def test_clock_that_is_off(shift: int, words: str) -> None:
    """The lab's hosts share the machine's clock, so the tool that reads it is another one."""
    fake = "/usr/local/bin/date"
    on("web2", f"printf '#!/bin/sh\\necho $(($(/usr/bin/date +%%s) + {shift}))\\n' >{fake}; chmod 755 {fake}")
    with undone("web2", f"rm {fake}"):
        refused(fleet("apply", "--limit", "web2"), "web2: clock", words)


def test_full_disk(altered: Path) -> None:
    append(altered, "base = {'disk_reserve': '900000gb'}")
    refused(fleet("apply", "--limit", "web2", inventory=altered), "web2: free disk in /var")


def test_too_little_memory(altered: Path) -> None:
    append(altered, "mysql = {'innodb_buffer_pool_size': '900gb'}")
    refused(fleet("apply", "--limit", "data2", inventory=altered), "data2: memory: found")


def test_broken_apt() -> None:
    """A package is missing and the sources lead nowhere."""
    on("mon1", "apt-get -q -y remove prometheus >/dev/null 2>&1; apt-get clean; mv /etc/apt /root/apt; mkdir /etc/apt; "
       "mkdir -p /root/lists; mv /var/lib/apt/lists/* /root/lists/ 2>/dev/null || true")  # fmt: skip
    try:
        refused(fleet("apply", "--limit", "mon1"), "mon1: package:prometheus")
    finally:
        on("mon1", "rm -rf /etc/apt; mv /root/apt /etc/apt; mv /root/lists/* /var/lib/apt/lists/ 2>/dev/null || true")
    assert fleet("apply", "--limit", "mon1").returncode == 0
    assert drift("mon1") == set()


# struct flock on amd64: a lock of all of the file.
LOCKED = """\
perl -e '
use Fcntl;
open(my $held, ">", "/var/lib/dpkg/lock-frontend") or die;
fcntl($held, F_SETLK, pack("s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0)) or die;
open(my $flag, ">", "/run/apt-locked");
sleep {seconds};'
"""


@contextmanager
def apt_locked(host: str, seconds: int) -> Iterator[None]:
    """As unattended-upgrades does it; the lock goes with its holder."""
    script = shlex.quote(LOCKED.format(seconds=seconds))
    on(host, f"rm -f /run/apt-locked; systemd-run --quiet --collect --unit=apt-lock sh -c {script}\n"
       "until [ -e /run/apt-locked ]; do sleep 0.1; done")  # fmt: skip
    with undone(host, "systemctl stop apt-lock 2>/dev/null || true"):
        yield


def test_apt_locked_by_another_for_a_while() -> None:
    on("mon1", "apt-get -q -y remove prometheus >/dev/null 2>&1")
    with apt_locked("mon1", 6):
        done = fleet("apply", "--limit", "mon1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert drift("mon1") == set()


def test_apt_locked_by_another_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shell with less patience: it names the holder, and nothing is installed."""
    monkeypatch.setattr(shell, "APT_LOCK_SECONDS", 2)
    package = Package(name="hello")
    step = Step(host="mon1", resource=package, step=StepClass.CREATE, summary="install", script=shell.install(package))
    with apt_locked("mon1", 60):
        failure = shell.failure(on("mon1", shell.batch([step]), check=False).splitlines())
        assert failure is not None
        assert failure.key == "package:hello"
        assert "locked by another process with pid" in failure.words
    assert on("mon1", "dpkg-query -W -f '${db:Status-Status}' hello 2>/dev/null || echo absent") == "absent\n"
    assert "policy-rc.d" not in on("mon1", "ls /usr/sbin")


def test_port_taken_by_a_stranger() -> None:
    script = "systemctl stop redis-cache; systemd-run --quiet --unit=stranger --collect redis-server --port 6379"
    on("data3", script)
    try:
        refused(fleet("apply", "--limit", "data3"), "data3: unit:redis-cache.service")
    finally:
        on("data3", "systemctl stop stranger")
    assert fleet("apply", "--limit", "data3").returncode == 0
    assert drift("data3") == set()


def test_file_that_does_not_validate(altered: Path) -> None:
    """The server's own checker refuses it: the live file, the kernel's rules and the unit stay as they are."""
    append(altered, "base = {'ssh_from': ['no-address']}")
    before, rules = footprint("web2"), on("web2", "nft list ruleset; cat /etc/nftables.conf")
    refused(
        fleet("apply", "--limit", "web2", inventory=altered), "web2: file:/etc/nftables.conf", "refused by its checker"
    )
    assert on("web2", "nft list ruleset; cat /etc/nftables.conf") == rules
    assert footprint("web2") == before


def test_change_that_locks_the_controller_out_goes_back_by_itself(altered: Path) -> None:
    append(altered, "base = {'ssh_from': ['198.51.100.0/24']}")
    refused(fleet("apply", "--limit", "web2", inventory=altered), "web2: firewall", "goes back")
    until = 100
    for _ in range(until):
        if fleet("drift", "--limit", "web2").returncode == 0:
            break
        threading.Event().wait(1)
    else:
        pytest.fail("the host has not gone back by itself")


def test_without_the_guard_the_host_stays_locked() -> None:
    """The twin: the same rules without the guard shut the controller out for good."""
    on(
        "web2",
        "sed 's/tcp dport { 22 } accept/ip saddr 198.51.100.0\\/24 tcp dport 22 accept/' "
        "/etc/nftables.conf >/root/locked; nft -f /root/locked",
    )
    try:
        refused(fleet("drift", "--limit", "web2"), "web2: SSH to")
    finally:
        on("web2", "nft -f /etc/nftables.conf; rm /root/locked")
    assert drift("web2") == set()


def test_one_run_at_a_time() -> None:
    """The second run names the first and does nothing; the lock goes with its owner, however that ends."""
    script = (
        "import sys, time; from pathlib import Path; from deploy.converge.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'a test'): print('held', flush=True); time.sleep(60)"
    )
    command = [str(ROOT / ".venv/bin/python"), "-c", script, str(folder(INVENTORY))]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    refused(fleet("apply", "--limit", "web1"), f"(process {holder.pid})", "a test")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert fleet("apply", "--limit", "web1").returncode == 0


def test_change_still_running_on_the_host_is_waited_for() -> None:
    """What a dead controller left running is let finish before the host is looked at."""
    on(
        "web1",
        "systemd-run --quiet --collect --unit=leftover flock /run/lock/fleet-act sh -c 'sleep 3; touch /run/left'",
    )
    assert fleet("plan", "--limit", "web1").returncode == 0
    assert "left" in on("web1", "ls /run/left")
    on("web1", "rm /run/left")
