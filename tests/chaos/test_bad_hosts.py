"""Hosts that are not what the inventory thinks: one clear message, exit code 1, and what was live stays live."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from deploy.converge import apt, shell
from deploy.converge.inventory import folder
from deploy.converge.step import Step
from deploy.model.resources import Package, StepClass
from tests.chaos.failover import eventually
from tests.chaos.support import INVENTORY, ROOT, SPEC, altered, drift, fleet, footprints, on, touched


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the inventory, with the same keys, whose inventory.py says something else."""
    copy = altered(tmp_path, "")
    text = (copy / "inventory.py").read_text()
    assert old in text
    (copy / "inventory.py").write_text(text.replace(old, new))
    return copy


def said(done: subprocess.CompletedProcess[str], *messages: str) -> None:
    """One clear refusal."""
    words = done.stdout + done.stderr
    assert done.returncode == 1, words[-2000:]
    assert "Traceback" not in words
    for message in messages:
        assert message in words, words[-2000:]
    assert ": found " in words
    assert ", expected " in words


def refused(
    *arguments: str, says: tuple[str, ...], inventory: str | Path = INVENTORY, hosts: tuple[str, ...] = (),
    but: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """The command refuses, and what was live stays live: no file changed, no service restarted, nothing half-written.

    hosts: by default the one that --limit names. but: what the fault itself keeps from running or makes change.
    """
    names = hosts or (arguments[arguments.index("--limit") + 1],)
    before = footprints(names)
    said(fleet(*arguments, inventory=inventory), *says)
    after = footprints(names)
    assert {one for one in touched(before, after) if one[1] not in but} == set()
    assert not any("/.fleet-" in name for host in after for name in after[host])


@contextmanager
def undone(host: str, script: str) -> Iterator[None]:
    try:
        yield
    finally:
        on(host, script)


def test_unreachable_host() -> None:
    """A web host: nothing keeps a connection to it. Senders of logs start anew when the store's host goes."""
    lab.stop(SPEC, "web2")
    try:
        refused("apply", says=("web2: SSH to",), hosts=("web1", "data1", "app1"))
    finally:
        lab.start(SPEC, "web2")


KNOWN_HOSTS = 'str(LAB / "ssh/known_hosts")'
ROOT_LOGIN = '"ssh_user": "root"'
LOGINS = '{"ssh_hostname": address}'


def test_wrong_host_key(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    public = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    known.write_text("".join(f"{address} {public}\n" for address in SPEC.hosts.values()))
    inventory = edited(tmp_path, KNOWN_HOSTS, repr(str(known)))
    refused("plan", "--limit", "web1", inventory=inventory, says=("the host key that is pinned for it",))


def test_host_key_that_is_not_pinned(tmp_path: Path) -> None:
    """No first use is trusted: what to pin, and from where, is said."""
    known = tmp_path / "known_hosts"
    known.touch()
    inventory = edited(tmp_path, KNOWN_HOSTS, repr(str(known)))
    says = ("a host key that is pinned for it", "put its public host key, taken at its console, into the inventory's")
    refused("apply", "--limit", "web1", inventory=inventory, says=says)
    assert known.read_text() == ""


def test_no_sudo(tmp_path: Path) -> None:
    inventory = edited(tmp_path, ROOT_LOGIN, '"ssh_user": "nosudo", "_sudo": True')
    refused("plan", "--limit", "web1", inventory=inventory, says=("sudo", "NOPASSWD"))


def test_not_root(tmp_path: Path) -> None:
    inventory = edited(tmp_path, ROOT_LOGIN, '"ssh_user": "nosudo"')
    refused("plan", "--limit", "web1", inventory=inventory, says=("root",))


def test_deploying_user_with_sudo_sees_the_same(tmp_path: Path) -> None:
    """As production has it: plan and the suite of tests."""
    inventory = edited(tmp_path, ROOT_LOGIN, '"ssh_user": "deploy", "_sudo": True')
    done = fleet("plan", "--limit", "web1", inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    done = fleet("verify", "-k", "test_is_debian or test_health", inventory=inventory)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ("debian 11", 'ID=debian\nVERSION_ID="11"'),
        pytest.param("ubuntu 24.04", 'ID=ubuntu\nVERSION_ID="24.04"', marks=pytest.mark.thorough),
    ],
)
def test_wrong_release(found: str, text: str) -> None:
    on("web2", f"cp -P /etc/os-release /root/os-release; rm /etc/os-release; printf '%s\\n' '{text}' >/etc/os-release")
    with undone("web2", "rm /etc/os-release; mv /root/os-release /etc/os-release"):
        refused("apply", "--limit", "web2", says=(f"web2: operating system: found {found}",))


@pytest.mark.parametrize(
    ("shift", "words"), [(3600, "ahead of"), pytest.param(-7200, "behind", marks=pytest.mark.thorough)]
)
def test_clock_that_is_off(shift: int, words: str) -> None:
    """The lab's hosts share the machine's clock, so the tool that reads it is another one."""
    fake = "/usr/local/bin/date"
    on("web2", f"printf '#!/bin/sh\\necho $(($(/usr/bin/date +%%s) + {shift}))\\n' >{fake}; chmod 755 {fake}")
    with undone("web2", f"rm {fake}"):
        refused("apply", "--limit", "web2", says=("web2: clock", words))


def test_too_little_disk_is_left(tmp_path: Path) -> None:
    inventory = altered(tmp_path, "base = base | {'disk_reserve': '900000gb'}")
    refused("apply", "--limit", "web2", inventory=inventory, says=("web2: free disk in /var",))


@contextmanager
def full(host: str, folder_: str) -> Iterator[None]:
    """A disk of 64 KiB with the folder's files on it, and not a byte more."""
    script = (
        f"cp -a {folder_} /run/full; mount -t tmpfs -o size=64k,mode=755 full {folder_}; cp -a /run/full/. {folder_}/; "
        f"rm -r /run/full; dd if=/dev/zero of={folder_}/rest bs=1k 2>/dev/null || true"
    )
    on(host, script)
    with undone(host, f"umount {folder_}"):
        yield


def test_full_disk(tmp_path: Path) -> None:
    """The reserve elsewhere does not help: the new content cannot be written, so the old stays, whole."""
    inventory = altered(tmp_path, "base = base | {'somaxconn': 2048}")
    path = "/etc/sysctl.d/60-fleet.conf"
    with full("web2", "/etc/sysctl.d"):
        before = on("web2", f"sha256sum {path}; ls -A /etc/sysctl.d")
        refused("apply", "--limit", "web2", inventory=inventory, says=(f"web2: file:{path}", "No space left on device"))
        assert on("web2", f"sha256sum {path}; ls -A /etc/sysctl.d") == before
        assert on("web2", "sysctl -n net.core.somaxconn") == "4096\n"
    assert drift("web2") == set()


def test_too_little_memory(tmp_path: Path) -> None:
    inventory = altered(tmp_path, "mysql = {'innodb_buffer_pool_size': '900gb'}")
    refused("apply", "--limit", "data2", inventory=inventory, says=("data2: memory: found",))


@pytest.mark.thorough
def test_broken_apt() -> None:
    """A package is missing and the sources lead nowhere."""
    on("mon1", "apt-get -q -y remove prometheus >/dev/null 2>&1; apt-get clean; mv /etc/apt /root/apt; mkdir /etc/apt; "
       "mkdir -p /root/lists; mv /var/lib/apt/lists/* /root/lists/ 2>/dev/null || true")  # fmt: skip
    try:
        refused("apply", "--limit", "mon1", says=("mon1: package:prometheus",))
    finally:
        on("mon1", "rm -rf /etc/apt; mv /root/apt /etc/apt; mv /root/lists/* /var/lib/apt/lists/ 2>/dev/null || true")
    assert fleet("apply", "--limit", "mon1").returncode == 0
    assert drift("mon1") == set()


# struct flock on amd64: a lock of all of the file.
LOCKED = """\
perl -e '
use Fcntl;
open(my $held, ">", "/var/lib/dpkg/lock-frontend") or die;
my $whole = pack("s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0);
fcntl($held, F_SETLK, $whole) or die;
open(my $flag, ">", "/run/apt-locked");
sleep {seconds};'
"""


@contextmanager
def apt_locked(host: str, seconds: int) -> Iterator[None]:
    """As unattended-upgrades does it; the lock goes with its holder."""
    script = shlex.quote(LOCKED.format(seconds=seconds))
    on(host, f"rm -f /run/apt-locked; systemd-run --quiet --collect --unit=apt-lock sh -c {script}\n"
       "timeout 20 sh -c 'until [ -e /run/apt-locked ]; do sleep 0.1; done'")  # fmt: skip
    with undone(host, "systemctl stop apt-lock 2>/dev/null || true"):
        yield


@pytest.mark.thorough
def test_apt_locked_by_another_for_a_while() -> None:
    on("mon1", "apt-get -q -y remove prometheus >/dev/null 2>&1")
    with apt_locked("mon1", 6):
        done = fleet("apply", "--limit", "mon1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert drift("mon1") == set()


def test_apt_locked_by_another_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shell with less patience: it names the holder, and nothing is installed."""
    hasty = apt.APT.replace(f"patience={apt.APT_LOCK_SECONDS}", "patience=2")
    assert hasty != apt.APT
    monkeypatch.setattr(shell, "APT", hasty)
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
        # systemd goes on trying to start it.
        refused("apply", "--limit", "data3", says=("data3: unit:redis-cache.service",), but=("redis-cache.service",))
    finally:
        on("data3", "systemctl stop stranger")
    assert fleet("apply", "--limit", "data3").returncode == 0
    assert drift("data3") == set()


def test_file_that_does_not_validate(tmp_path: Path) -> None:
    """The server's own checker refuses it: the live file, the kernel's rules and the unit stay as they are."""
    inventory = altered(tmp_path, "base = base | {'ssh_from': ['no-address']}")
    rules = on("web2", "nft list ruleset; cat /etc/nftables.conf")
    says = ("web2: file:/etc/nftables.conf", "refused by its checker")
    refused("apply", "--limit", "web2", inventory=inventory, says=says)
    assert on("web2", "nft list ruleset; cat /etc/nftables.conf") == rules


def pyinfra(inventory: Path) -> subprocess.CompletedProcess[str]:
    command = [ROOT / ".venv/bin/pyinfra", inventory / "inventory.py", "deploy/site.py", "-y", "--limit", "web2"]
    return subprocess.run(list(map(str, command)), cwd=ROOT, text=True, capture_output=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=300)  # fmt: skip


@pytest.mark.parametrize("wrong", ["no secrets", "a step that fails"])
def test_by_pyinfras_own_command_line(tmp_path: Path, wrong: str) -> None:
    """The same refusals: not zero, one message, no traceback, nothing changed."""
    if wrong == "no secrets":
        inventory, message = altered(tmp_path, ""), "fleet secrets init"
        (inventory / "secrets.age").unlink()
    else:
        inventory, message = altered(tmp_path, "base = base | {'ssh_from': ['no-address']}"), "refused by its checker"
    before = footprints(("web2",))
    done = pyinfra(inventory)
    words = done.stdout + done.stderr
    assert done.returncode != 0, words
    assert words.count(message) == 1, words
    assert "Traceback" not in words
    assert ": found " in words
    assert touched(before, footprints(("web2",))) == set()


def tree_that_says(folder_: Path, template: str, line: str) -> Path:
    """A copy of the program with another line in one of its templates."""
    copy = folder_ / "tree"
    for part in ("deploy", "templates", "files", "lab", "inventories"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "fleet", copy / "fleet")
    (copy / ".venv").symlink_to(ROOT / ".venv")
    with (copy / "templates" / template).open("a") as handle:
        handle.write(f"\n{line}\n")
    return copy


@pytest.mark.thorough
def test_changes_that_lock_the_controller_out_go_back_by_themselves(tmp_path: Path) -> None:
    """A firewall on one host, an sshd on another that let nobody in: both have what they had before a minute is over.

    At the same time, since each takes its minute.
    """
    inventory = altered(tmp_path, "base = base | {'ssh_from': ['198.51.100.0/24']}")
    said(fleet("apply", "--limit", "web2", inventory=inventory), "web2: firewall", "goes back")
    tree = tree_that_says(tmp_path, "base/sshd.conf.j2", "DenyUsers root")
    done = subprocess.run(
        [str(tree / "fleet"), "apply", str(folder(INVENTORY)), "--limit", "run1"], cwd=tree, text=True,
        capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=300, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    said(done, "run1: unit:ssh.service", "goes back")
    assert "DenyUsers" in on("run1", "cat /etc/ssh/sshd_config.d/10-fleet.conf")
    for host in ("web2", "run1"):
        eventually(f"{host} is back", lambda name=host: fleet("drift", "--limit", name).returncode == 0, 100)  # type: ignore[misc]
    assert on("run1", "grep -c DenyUsers /etc/ssh/sshd_config.d/10-fleet.conf || true") == "0\n"


@pytest.mark.thorough
def test_without_the_guard_the_host_stays_locked() -> None:
    """The twin: the same rules without the guard shut the controller out for good."""
    on(
        "web2",
        "sed 's/tcp dport { 22 } accept/ip saddr 198.51.100.0\\/24 tcp dport 22 accept/' "
        "/etc/nftables.conf >/root/locked; nft -f /root/locked",
    )
    try:
        refused("drift", "--limit", "web2", says=("web2: SSH to",))
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
    refused("apply", "--limit", "web1", says=(f"(process {holder.pid})", "a test"))
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


@pytest.mark.thorough
def test_root_can_be_done_without(tmp_path: Path) -> None:
    """The three steps of docs/hosts.md on one host, and back."""
    account = '{"ssh_user": "deployer", "_sudo": True} if name == "run1" else {}'
    private = Path(os.environ.get("FLEET_LAB_STATE", "/var/lib/fleet-lab")) / INVENTORY / "ssh/id_ed25519"
    done = subprocess.run(["ssh-keygen", "-y", "-f", str(private)], text=True, capture_output=True, check=True)
    key = " ".join(done.stdout.split()[:2])
    own = {"login": "deployer", "operators": [key], "updates": "off"}

    def with_base(name: str, **more: object) -> Path:
        made = tmp_path / name
        made.mkdir()
        # Of this host alone: the data hosts are asked as root who leads.
        inventory = edited(made, LOGINS, LOGINS if name == "root" else LOGINS.replace("}", f", **({account})}}"))
        with (inventory / "group_data/all.py").open("a") as handle:
            handle.write(f"\nbase = {own | more!r}\n")
        return inventory

    as_root = with_base("root")
    with undone("run1", "userdel -r deployer; rm -f /etc/sudoers.d/60-fleet"):
        assert fleet("apply", "--limit", "run1", inventory=as_root).returncode == 0
        as_operator = with_base("operator")
        done = fleet("plan", "--limit", "run1", inventory=as_operator)
        assert done.returncode == 0, done.stdout + done.stderr
        without = with_base("without", root_login="no")
        done = fleet("apply", "--limit", "run1", inventory=without)
        assert done.returncode == 0, done.stdout + done.stderr
        refused("plan", "--limit", "run1", inventory=as_root, says=("SSH to",))
        assert "deployer from" in on("run1", "tail -n 1 /var/log/fleet/audit.jsonl")
        assert fleet("apply", "--limit", "run1", inventory=as_operator).returncode == 0
        assert fleet("apply", "--limit", "run1", inventory=INVENTORY).returncode == 0
