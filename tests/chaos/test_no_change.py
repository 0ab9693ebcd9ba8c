"""What a run costs that has nothing to do, counted on the hosts; and pyinfra's own command line."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from deploy.converge.inventory import folder
from tests.chaos.support import INVENTORY, ROOT, apply, footprint, on

LOG = "/etc/ssh/sshd_config.d/00-count.conf"
HOSTS = ("data1", "web1")


@pytest.fixture
def counting() -> Iterator[None]:
    """sshd notes every session, and none is noted from before."""
    for host in HOSTS:
        on(host, f"echo 'LogLevel VERBOSE' >{LOG}; systemctl reload ssh; journalctl --rotate -q; sleep 1")
    yield
    for host in HOSTS:
        on(host, f"rm {LOG}; systemctl reload ssh")


def counted(host: str, mark: str) -> tuple[int, int]:
    """(connections, commands) since the mark."""
    lines = on(host, f"journalctl -q -o cat _COMM=sshd --after-cursor='{mark}'").splitlines()
    return (
        sum("Accepted publickey" in line for line in lines),
        sum("Starting session: command" in line for line in lines),
    )


def mark(host: str) -> str:
    return on(host, "journalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p'").strip()


def test_at_most_three_commands_over_one_connection(counting: None) -> None:
    apply()
    marks = {host: mark(host) for host in HOSTS}
    assert apply()["done"] == []
    for host in HOSTS:
        connections, commands = counted(host, marks[host])
        assert connections == 1
        assert 1 <= commands <= 3


def pyinfra(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / ".venv/bin/pyinfra"), str(folder(INVENTORY) / "inventory.py"), "deploy/site.py", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300,
                          check=False)  # fmt: skip


def test_pyinfras_own_command_line_does_the_same() -> None:
    """Nothing to do; then a dry run that names the drift and leaves it; then the mending."""
    before = footprint("web1")
    done = pyinfra("-y")
    assert done.returncode == 0, done.stdout + done.stderr
    assert footprint("web1") == before
    on("web1", "echo '# a stray line' >>/etc/hosts")
    dry = pyinfra("--dry", "--limit", "web1")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "base: files" in dry.stdout + dry.stderr
    assert "a stray line" in on("web1", "cat /etc/hosts")
    done = pyinfra("-y", "--limit", "web1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a stray line" not in on("web1", "cat /etc/hosts")
    assert apply()["done"] == []
