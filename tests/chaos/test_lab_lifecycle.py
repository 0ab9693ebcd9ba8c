"""The lab itself, for real: two hosts on a bridge and network of their own, beside any other lab.

Takes root and the lab's tools; 40 s on two cores with a base image in the cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import (
    LabError,
    LabSpec,
    UpResult,
    down,
    drop_snapshot,
    exec_,
    kill,
    list_hosts,
    machine,
    reset,
    restore,
    shape,
    snapshot,
    snapshot_names,
    ssh_argv,
    start,
    stop,
    unshape,
    up,
)
from lab.paths import LabPaths
from lab.system import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
BRIDGE = "lab79"
TOML = f"""
bridge = "{BRIDGE}"
network = "10.79.0.0/24"
suite = "bookworm"
[hosts]
one = "10.79.0.11"
two = "10.79.0.12"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def small_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSpec]:
    folder = tmp_path_factory.mktemp("inventories") / "lifecycle"
    folder.mkdir()
    (folder / "lab.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_LAB_STATE", str(tmp_path_factory.mktemp("state")))
        spec = LabSpec.load(folder)
        yield spec
        down(spec)


@pytest.fixture
def running(small_lab: LabSpec) -> LabSpec:
    up(small_lab)
    return small_lab


def traces(spec: LabSpec) -> list[str]:
    """All that this lab could have left on the machine; empty after `down`."""
    found = []
    mark = f"--machine={spec.bridge}-"
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in entry.read_text():
                found.append(f"process {entry.parent.name}: {entry.read_text()[:100]}")
        except OSError:
            continue
    state = str(LabPaths.of(spec).base)
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found += [line for line in links.splitlines() if BRIDGE in line]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    found += [line for line in tables.splitlines() if spec.table in line]
    for pattern in (f"*/fleet-lab/{BRIDGE}", f"fleet-lab/{BRIDGE}"):
        found += map(str, Path("/sys/fs/cgroup").glob(pattern))
    found += [str(note) for note in machine.notes() if note["bridge"] == BRIDGE]
    found += map(str, Path("/run/systemd/nspawn/propagate").glob(f"{BRIDGE}-*"))
    if not machine.notes():
        found += [f"{name} is {value}" for name, value in parameters().items() if value != BEFORE[name]]
    return found


def parameters() -> dict[str, str]:
    paths = {n: Path("/proc/sys") / n.replace(".", "/") for n in machine.WANTED}
    return {name: path.read_text().strip() for name, path in paths.items()}


BEFORE = parameters()


def ssh(spec: LabSpec, host: str, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ssh_argv(spec, host, user), *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_up_boots_bare_hosts_and_twice_changes_nothing(small_lab: LabSpec) -> None:
    first = up(small_lab)
    assert isinstance(first, UpResult)
    assert first.started == ("one", "two")
    assert parameters()["net.ipv4.ip_forward"] == "1"
    pids = {status.name: status.pid for status in list_hosts(small_lab)}
    begin = time.monotonic()
    again = up(small_lab)
    assert time.monotonic() - begin < 1
    assert again.already == ("one", "two")
    assert {status.name: status.pid for status in list_hosts(small_lab)} == pids


def test_hosts_are_whole_systems(running: LabSpec) -> None:
    for host in running.hosts:
        state = exec_(running, host, ["systemctl", "is-system-running", "--wait"], timeout=60)
        assert state.stdout.strip() == "running", exec_(running, host, ["systemctl", "--failed"]).stdout
    assert exec_(running, "one", ["hostname"]).stdout == "one\n"
    assert exec_(running, "one", ["ping", "-c1", "-W2", "10.79.0.12"]).returncode == 0
    assert exec_(running, "one", ["stat", "-fc", "%T", "/sys/fs/cgroup"]).stdout == "cgroup2fs\n"
    ids = {exec_(running, host, ["cat", "/etc/machine-id"]).stdout for host in running.hosts}
    assert len(ids) == 2


def test_ssh_with_the_pinned_key(running: LabSpec) -> None:
    assert "StrictHostKeyChecking=yes" in ssh_argv(running, "one")
    assert ssh(running, "one", "id", "-un").stdout == "root\n"
    assert ssh(running, "one", "sudo", "-n", "id", "-un", user="deploy").stdout == "root\n"
    assert ssh(running, "one", "id", "-un", user="nosudo").stdout == "nosudo\n"
    assert ssh(running, "one", "sudo", "-n", "id", user="nosudo").returncode == 1


def test_a_wrong_key_is_refused_on_either_side(running: LabSpec, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    own = str(LabPaths.of(running).client_key)
    argv = [str(tmp_path / "key") if a == own else a for a in ssh_argv(running, "one")]
    refused = subprocess.run([*argv, "true"], capture_output=True, text=True, check=False)
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr

    exec_(running, "two", ["cp", "-r", "/etc/ssh", "/root/ssh.kept"])
    exec_(running, "two", ["sh", "-c", "rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh"])
    other = ssh(running, "two", "true")
    assert other.returncode == 255
    assert "Host key verification failed" in other.stderr
    exec_(running, "two", ["sh", "-c", "rm /etc/ssh/ssh_host_*; cp -p /root/ssh.kept/ssh_host_* /etc/ssh"])
    exec_(running, "two", ["systemctl", "restart", "ssh"])
    assert ssh(running, "two", "true").returncode == 0


def test_exec_passes_input_output_and_code(running: LabSpec) -> None:
    done = exec_(running, "one", ["sh", "-c", "cat; echo err >&2; exit 7"], input="hello")
    assert (done.stdout, done.stderr, done.returncode) == ("hello", "err\n", 7)
    with pytest.raises(LabError, match="not done after"):
        exec_(running, "one", ["sleep", "77"], timeout=0.5)
    gone = "for i in 1 2 3 4 5 6 7 8 9; do pgrep -x sleep || exit 0; ping -qc1 -w1 127.0.0.2; done; exit 1"
    assert exec_(running, "one", ["sh", "-c", gone]).returncode == 0


def test_exec_works_without_the_network(running: LabSpec) -> None:
    exec_(running, "one", ["ip", "link", "set", "host0", "down"])
    assert exec_(running, "one", ["hostname"]).stdout == "one\n"
    stop(running, "one")
    start(running, "one")
    assert ssh(running, "one", "true").returncode == 0


def test_hosts_install_packages_and_down_keeps_them(running: LabSpec) -> None:
    update = exec_(running, "one", ["apt-get", "-q", "update"], timeout=120)
    assert update.returncode == 0, update.stderr
    install = exec_(running, "one", ["apt-get", "-qy", "install", "file"], timeout=120)
    assert install.returncode == 0, install.stderr
    assert exec_(running, "one", ["sh", "-c", "ls /var/cache/apt/archives/file_*.deb"]).returncode == 0
    reset(running, "one")
    assert exec_(running, "one", ["sh", "-c", "ls /var/cache/apt/archives/file_*.deb"]).returncode == 0
    assert exec_(running, "one", ["test", "-e", "/usr/bin/file"]).returncode == 1
    offline = exec_(running, "one", ["apt-get", "-qy", "--no-download", "install", "file"], timeout=120)
    assert offline.returncode == 0, offline.stderr


def test_stop_kill_start_keep_the_disk(running: LabSpec) -> None:
    exec_(running, "one", ["sh", "-c", "echo kept > /root/mark"])
    assert stop(running, "one")
    assert not stop(running, "one")
    assert [s.state for s in list_hosts(running)] == ["stopped", "running"]
    with pytest.raises(LabError, match="does not run"):
        exec_(running, "one", ["true"])
    assert start(running, "one")
    assert not start(running, "one")
    begin = time.monotonic()
    assert kill(running, "one")
    assert time.monotonic() - begin < 3
    assert not kill(running, "one")
    start(running, "one")
    assert exec_(running, "one", ["cat", "/root/mark"]).stdout == "kept\n"


def boot(spec: LabSpec) -> str:
    """When the host's init was started."""
    return exec_(spec, "one", ["cat", "/proc/1/stat"]).stdout.split()[21]


def booted_anew(spec: LabSpec, before: str) -> None:
    """Wait until the host is there again."""

    def there() -> bool:
        try:
            return boot(spec) != before and ssh(spec, "one", "true").returncode == 0
        except (LabError, IndexError):
            return False

    assert wait_until(there, 30, every=0.3), "the host did not come back"


def test_reboot_from_within(running: LabSpec) -> None:
    before = boot(running)
    exec_(running, "one", ["systemctl", "reboot"])
    booted_anew(running, before)


STAYS = ["sh", "-c", "touch /run/somebody; exec sleep 600"]
LOGGED_IN = {
    "by command": f"from lab.cli import app; app(['exec', '-i', FOLDER, 'one', '--', *{STAYS}])",
    "by function": f"import lab; exit(lab.exec_(lab.LabSpec.load(FOLDER), 'one', {STAYS}).returncode)",
}


@pytest.mark.parametrize("how", LOGGED_IN)
def test_who_is_in_a_host_does_not_keep_it_from_booting_anew(running: LabSpec, how: str) -> None:
    """systemd stops all processes before it ends them; who started one from outside sleeps then as well."""
    before = boot(running)
    script = f"FOLDER = {str(Path(running.source).parent)!r}\n{LOGGED_IN[how]}"
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdin=subprocess.DEVNULL) as somebody:
        try:
            assert wait_until(lambda: exec_(running, "one", ["test", "-e", "/run/somebody"]).returncode == 0, 30)
            exec_(running, "one", ["systemctl", "reboot"])
            booted_anew(running, before)
            assert somebody.wait(10) != 0, "it has ended with the host"
        finally:
            somebody.kill()


def test_reset_makes_bare_and_keeps_the_pinned_key(running: LabSpec) -> None:
    exec_(running, "one", ["sh", "-c", "echo gone > /root/mark"])
    identity = exec_(running, "one", ["cat", "/etc/machine-id"]).stdout
    reset(running, "one")
    assert exec_(running, "one", ["test", "-e", "/root/mark"]).returncode == 1
    assert exec_(running, "one", ["cat", "/etc/machine-id"]).stdout != identity
    assert ssh(running, "one", "true").returncode == 0


def test_snapshot_goes_to_any_host_which_stays_itself(running: LabSpec) -> None:
    exec_(running, "one", ["sh", "-c", "echo golden > /root/mark; rm /etc/issue; mkdir /srv/x"])
    snapshot(running, "one", "golden")
    assert snapshot_names(running) == ["golden"]
    with pytest.raises(LabError, match="of this name"):
        snapshot(running, "one", "golden")
    start(running, "one")
    exec_(running, "one", ["sh", "-c", "echo later > /root/mark"])
    restore(running, "two", "golden")
    start(running, "two")
    assert exec_(running, "one", ["cat", "/root/mark"]).stdout == "later\n"
    assert exec_(running, "two", ["cat", "/root/mark"]).stdout == "golden\n"
    assert exec_(running, "two", ["test", "-e", "/etc/issue"]).returncode == 1
    for host in running.hosts:
        assert ssh(running, host, "hostname").stdout == f"{host}\n"
    ids = {exec_(running, host, ["cat", "/etc/machine-id"]).stdout for host in running.hosts}
    assert len(ids) == 2
    snapshot(running, "two", "second")
    restore(running, "one", "second")
    start(running, "one")
    assert exec_(running, "one", ["cat", "/root/mark"]).stdout == "golden\n"
    with pytest.raises(LabError, match="stands on"):
        drop_snapshot(running, "golden")
    for host in running.hosts:
        reset(running, host)
    drop_snapshot(running, "second")
    drop_snapshot(running, "golden")
    assert snapshot_names(running) == []


def test_loss(running: LabSpec) -> None:
    ping = ["ping", "-c100", "-i0.01", "-W1", "-q", "10.79.0.12"]
    shape(running, "one", loss=100)
    assert exec_(running, "one", ping).returncode == 1
    assert ssh(running, "two", "true").returncode == 0
    unshape(running, "one")
    assert exec_(running, "one", ["ping", "-c1", "-w20", "-q", "10.79.0.12"]).returncode == 0  # ARP is back
    shape(running, "one", loss=30)
    lost = float(exec_(running, "one", ping).stdout.split("% packet loss")[0].rsplit(" ", 1)[1])
    assert 5 < lost < 95
    unshape(running, "one")
    assert " 0% packet loss" in exec_(running, "one", ping).stdout
    with pytest.raises(LabError, match="loss 101"):
        shape(running, "one", loss=101)


def test_delay_or_a_clear_reason_why_not(running: LabSpec) -> None:
    ping = ["ping", "-c3", "-i0.2", "-q", "10.79.0.1"]
    try:
        shape(running, "one", delay_ms=60)
    except LabError as error:
        assert "NETEM" in str(error)  # noqa: PT017  # either outcome is right, by the kernel
        return
    slow = exec_(running, "one", ping).stdout
    assert 55 < float(slow.rsplit("=", 1)[1].split("/")[0]) < 90
    unshape(running, "one")


def test_down_keep_goes_on_with_the_disks(running: LabSpec) -> None:
    exec_(running, "one", ["sh", "-c", "echo kept > /root/mark"])
    down(running, keep=True)
    assert traces(running) == []
    up(running)
    assert exec_(running, "one", ["cat", "/root/mark"]).stdout == "kept\n"


def test_down_leaves_nothing(running: LabSpec) -> None:
    down(running)
    assert traces(running) == []
    assert not list(LabPaths.of(running).hosts.glob("*"))
    down(running)


@pytest.mark.parametrize(
    "moment", [0.15, 0.5, *(pytest.param(moment, marks=pytest.mark.thorough) for moment in (0.05, 0.25, 0.35, 0.8))]
)
def test_down_after_up_was_killed(small_lab: LabSpec, moment: float) -> None:
    """Wherever `up` is when it is killed, `down` finds all of it."""
    folder = str(Path(small_lab.source).parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.cli", "up", "-i", folder], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # the first host is about to boot
        time.sleep(moment)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    down(small_lab)
    assert traces(small_lab) == []


def test_up_goes_on_after_up_was_killed(small_lab: LabSpec) -> None:
    folder = str(Path(small_lab.source).parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.cli", "up", "-i", folder], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    up(small_lab)
    assert {s.state for s in list_hosts(small_lab)} == {"running"}
    assert ssh(small_lab, "two", "true").returncode == 0
    down(small_lab)
    assert traces(small_lab) == []


def test_a_killed_image_build_leaves_nothing(small_lab: LabSpec, tmp_path: Path) -> None:
    folder = str(Path(small_lab.source).parent)
    environ = {**os.environ, "FLEET_LAB_CACHE": str(tmp_path)}
    before = set(Path(tempfile.gettempdir()).glob("mmdebstrap.*"))
    process = subprocess.Popen([sys.executable, "-m", "lab.cli", "up", "-i", folder], cwd=REPOSITORY, env=environ)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("images/.*/root/usr/bin/dpkg")) and time.monotonic() < end:
        time.sleep(0.2)
    assert list(tmp_path.glob("images/.*/root/usr/bin/dpkg"))
    process.kill()
    process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_LAB_CACHE", str(tmp_path))
        down(small_lab)
    assert traces(small_lab) == []
    assert not list(tmp_path.glob("images/.*"))
    assert set(Path(tempfile.gettempdir()).glob("mmdebstrap.*")) <= before
    assert str(tmp_path) not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
