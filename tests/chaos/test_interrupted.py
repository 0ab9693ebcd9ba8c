"""The controller dies (kill -9) again and again; the next apply always finishes.

A host is reset to bare and deployed by a controller that is killed at one point after another; then it is compared
with its undisturbed twin, which has the same roles. The same for a change of the inventory on running hosts.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

import lab
from tests.chaos.support import INVENTORY, REPEATS, ROOT, SPEC, altered, apply, drift, fleet, on

SEED = 20261124
LEFTOVERS = (
    "find / -xdev \\( -name '.fleet-*' -o -name '*.fleet-new' -o -name 'policy-rc.d' \\) -not -path '/proc/*'; "
    "systemctl list-timers --all --no-legend 'fleet-guard-*' | grep -o 'fleet-guard[^ ]*' || true; dpkg --audit"
)
COMPARED = "/etc/redis /etc/nginx /etc/php /etc/fleet /etc/sysctl.d /etc/ssh/sshd_config.d /etc/systemd /opt/omegaup"


def killed_apply(inventory: str, limit: str, after_lines: int, then: float) -> bool:
    """Start an apply, kill it `then` seconds after its `after_lines`-th step (0: its start); False if it was over."""
    process = subprocess.Popen(
        [str(ROOT / "fleet"), "apply", inventory, "--limit", limit], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen = 0
    for line in process.stdout if after_lines else ():
        if line.startswith(f"{limit.split(',')[0]}  "):
            seen += 1
        if seen >= after_lines:
            break
    threading.Event().wait(then)
    alive = process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    return alive


# What a server runs with that is its own: names, counters, positions, and what it has found out by itself.
OWN_VALUES = (
    "hostname|server_id|server_uid|gtid_.*|timestamp|last_insert_id|pseudo_.*|rand_seed.*|error_count|warning_count|"
    "bind-source-addr|replicaof|slaveof|.*version_source_revision|innodb_buffer_pool_load.*|read_only|event_scheduler|"
    "identity|insert_id|wsrep_.*|in_transaction|innodb_temp_data_file_path"
)
PARAMETERS = rf"""
same() {{ sed -e "s/$(hostname)/NAME/g" -e "s/$(hostname -I | cut -d' ' -f1)/ADDRESS/g"; }}
list() {{ sed -E '/^({OWN_VALUES})\t/d' | same | sort; }}
if [ -f /etc/fleet/redis.auth ]; then
  export REDISCLI_AUTH=$(cat /etc/fleet/redis.auth)
  for port in 6379 6380; do redis-cli --user fleet --no-auth-warning -p $port CONFIG GET '*' | paste - - | list; done
fi
if [ -S /run/mysqld/mysqld.sock ]; then mariadb --no-defaults -NB -e 'SHOW GLOBAL VARIABLES' | list; fi
if command -v nginx >/dev/null; then nginx -T 2>/dev/null | same; fi
sysctl -n net.core.somaxconn
systemctl list-unit-files --no-legend --state=enabled,masked | awk '{{ print $1, $2 }}'
for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | awk '{{ print $1 }}' |
  grep -E 'redis|mariadb|rabbitmq|nginx|php|omegaup|haproxy'); do
  printf '%s %s\n' "$unit" "$(grep 'open files' /proc/$(systemctl show -p MainPID --value $unit)/limits)"
done
"""


def parameters(host: str) -> list[str]:
    """All that the host's servers run with, not only what the deployment sets."""
    return on(host, PARAMETERS).splitlines()


def same(host: str, twin: str) -> None:
    """File by file and parameter by parameter, and nothing half-done about."""
    assert on(host, LEFTOVERS).strip() == ""
    assert contents(host) == contents(twin)
    assert parameters(host) == parameters(twin)


def contents(host: str) -> dict[str, str]:
    """Path -> hash, mode and owner of what the deployment writes, with the host's own name taken out."""
    script = (
        f"for f in $(find {COMPARED} -xdev -type f -not -name '*.pyc' -not -path '*/ssl/*' -not -name state.conf "
        "-not -name sentinel.conf -not -path '/etc/systemd/network/*' "
        "-not -path '*/multi-user.target.wants/*'); do "
        f'hash=$(sed -e s/{host}/NAME/g -e s/{SPEC.address(host)}/ADDRESS/g "$f" | sha256sum | cut -c1-64); '
        'printf "%s\\t%s %s\\n" "$f" "$hash" "$(stat -c %a:%U:%G "$f")"; done'
    )
    return dict(line.split("\t", 1) for line in on(host, script).splitlines())


TWINS = {"web2": "web1", "data3": "data2"}


@pytest.mark.parametrize(("victim", "kills"), [("web2", 4), ("data3", 6)])
def test_first_deploy_killed_again_and_again(victim: str, kills: int) -> None:
    """Right after a phase has ended, or soon after that; each run goes on where the last one died."""
    chance = random.Random(f"{SEED}-{victim}")
    lab.reset(SPEC, victim)
    killed = 0
    while killed < kills * 2 and killed_apply(INVENTORY, victim, 1, chance.uniform(0.0, 0.3)):
        killed += 1
    assert killed >= kills, f"the deploy was over after {killed} kills"
    apply(victim)
    assert drift(victim) == set()
    same(victim, TWINS[victim])


POINTS = 1 if REPEATS == 1 else 10


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    """How long an undisturbed first deploy of each victim takes."""
    return {}


@pytest.mark.parametrize("victim", ["web2", "data3"])
@pytest.mark.parametrize("point", range(POINTS))
def test_first_deploy_killed_once(victim: str, point: int, seconds: dict[str, float]) -> None:
    """One death for each deploy from nothing, the points spread evenly over all of it."""
    lab.reset(SPEC, victim)
    if victim not in seconds:
        begun = time.monotonic()
        apply(victim)
        seconds[victim] = time.monotonic() - begun
        same(victim, TWINS[victim])
        lab.reset(SPEC, victim)
    killed = killed_apply(INVENTORY, victim, 0, seconds[victim] * (point + 0.5) / POINTS)
    assert killed or point > POINTS * 0.7, "the deploy was over before it was to be killed"
    apply(victim)
    assert drift(victim) == set()
    same(victim, TWINS[victim])


def test_change_killed_once(tmp_path: Path) -> None:
    """Points spread over a change of several services' settings; each time the next apply ends where it should."""
    changed = altered(
        tmp_path,
        "redis = redis | {'maxmemory': '300mb', 'timeout': 600, 'slowlog_slower_than': 5000}\n"
        "frontend = frontend | {'fpm_max_requests': 321, 'rate_limit': 77}\n"
        "mysql = mysql | {'long_query_time': 2.5, 'wait_timeout': 9999}\n"
        "rabbitmq = {'delivery_limit': 7}",
    )
    hosts = ("data1", "web1")
    inventories: list[str | Path] = [INVENTORY, changed]
    ends: dict[str | Path, dict[str, object]] = {}

    def settled(inventory: str | Path) -> dict[str, object]:
        done = fleet("apply", "--limit", ",".join(hosts), inventory=inventory)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert all(on(host, LEFTOVERS).strip() == "" for host in hosts)
        return {host: (contents(host), parameters(host)) for host in hosts}

    begun = time.monotonic()
    for inventory in reversed(inventories):
        ends[inventory] = settled(inventory)
    whole = (time.monotonic() - begun) / 2
    killed = 0
    for point in range(POINTS * 4):
        inventory = inventories[(point + 1) % 2]
        killed += killed_apply(str(inventory), ",".join(hosts), 0, whole * (point + 0.5) / (POINTS * 4))
        assert settled(inventory) == ends[inventory]
    assert killed >= POINTS * 2
    apply(",".join(hosts))
    assert drift() == set()
