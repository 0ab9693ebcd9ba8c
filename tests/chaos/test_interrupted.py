"""The controller dies (kill -9) again and again; the next apply always finishes.

A host is reset to bare and deployed by a controller that is killed at one point after another; then it is compared
with its undisturbed twin, which has the same roles. The same for a change of the inventory on running hosts.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

import lab
from deploy.converge.inventory import folder
from tests.chaos.support import INVENTORY, ROOT, SPEC, apply, drift, fleet, on

SEED = 20261124
LEFTOVERS = (
    "find / -xdev \\( -name '.fleet-*' -o -name '*.fleet-new' -o -name 'policy-rc.d' \\) -not -path '/proc/*'; "
    "systemctl list-timers --all --no-legend 'fleet-guard-*' | grep -o 'fleet-guard[^ ]*' || true; dpkg --audit"
)
COMPARED = "/etc/redis /etc/nginx /etc/php /etc/fleet /etc/sysctl.d /etc/ssh/sshd_config.d /etc/systemd /opt/omegaup"


def killed_apply(inventory: str, limit: str, after_lines: int, then: float) -> bool:
    """Start an apply, kill it `then` seconds after its `after_lines`-th step; False when it ended before."""
    process = subprocess.Popen(
        [str(ROOT / "fleet"), "apply", inventory, "--limit", limit], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        if line.startswith(f"{limit.split(',')[0]}  "):
            seen += 1
        if seen >= after_lines:
            threading.Event().wait(then)
            break
    alive = process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    return alive


def contents(host: str) -> dict[str, str]:
    """Path -> hash, mode and owner of what the deployment writes, with the host's own name taken out."""
    script = (
        f"for f in $(find {COMPARED} -xdev -type f -not -name '*.pyc' -not -path '*/ssl/*' -not -name state.conf "
        "-not -path '/etc/systemd/network/*' "
        "-not -path '*/multi-user.target.wants/*'); do "
        f'hash=$(sed s/{host}/NAME/g "$f" | sha256sum | cut -c1-64); '
        'printf "%s\\t%s %s\\n" "$f" "$hash" "$(stat -c %a:%U:%G "$f")"; done'
    )
    return dict(line.split("\t", 1) for line in on(host, script).splitlines())


@pytest.mark.parametrize("round_", [1, 2])
@pytest.mark.parametrize(("victim", "twin", "kills"), [("web2", "web1", 4), ("data3", "data2", 6)])
def test_first_deploy_killed_again_and_again(victim: str, twin: str, kills: int, round_: int) -> None:
    """At least `kills` points in each round: a host's script goes on when the controller dies, so each is progress."""
    chance = random.Random(f"{SEED}-{victim}-{round_}")
    lab.reset(SPEC, victim)
    lab.start(SPEC, victim)
    killed = 0
    for turn in range(kills * 3):
        # In turn: some time after the start, wherever that is; and right after a phase has ended on the host.
        lines, delay = (0, chance.uniform(0.9, 2.2)) if turn % 2 == 0 else (1, chance.uniform(0.0, 0.4))
        if not killed_apply(INVENTORY, victim, lines, delay):
            break
        killed += 1
    assert killed >= kills, f"the deploy was over after {killed} kills"
    apply(victim)
    assert drift(victim) == set()
    assert on(victim, LEFTOVERS).strip() == ""
    assert contents(victim) == contents(twin)


def test_change_killed_again_and_again(tmp_path: Path) -> None:
    """Points over a change of several services' settings, there and back; in the end it is done, then undone."""
    changed = tmp_path / folder(INVENTORY).name
    shutil.copytree(folder(INVENTORY), changed)
    with (changed / "group_data/all.py").open("a") as handle:
        handle.write(
            "\nredis = redis | {'maxmemory': '300mb', 'timeout': 600, 'slowlog_slower_than': 5000}\n"
            "frontend = frontend | {'fpm_max_requests': 321, 'rate_limit': 77}\n"
            "mysql = mysql | {'long_query_time': 2.5, 'wait_timeout': 9999}\n"
            "rabbitmq = {'delivery_limit': 7}\n"
        )
    before = {host: contents(host) for host in ("data1", "web1")}
    chance = random.Random(SEED)
    killed = 0
    for turn in range(14):
        # To and fro, so that there is something to do each time.
        inventory = changed if turn % 2 == 0 else folder(INVENTORY)
        lines, delay = (0, chance.uniform(0.7, 1.8)) if turn % 4 < 2 else (1, chance.uniform(0.0, 0.3))
        killed += killed_apply(str(inventory), "data1,web1", lines, delay)
    assert killed >= 8
    done = fleet("apply", "--limit", "data1,web1", inventory=changed)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert fleet("plan", "--limit", "data1,web1", inventory=changed).returncode == 0
    assert on("data1", LEFTOVERS).strip() == on("web1", LEFTOVERS).strip() == ""
    apply("data1,web1")
    assert drift() == set()
    assert {host: contents(host) for host in ("data1", "web1")} == before
