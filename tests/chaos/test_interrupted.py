"""The controller dies (kill -9) again and again; the next apply always finishes.

A host is reset to bare and deployed by a controller that is killed at one point after another; then it is compared
with its undisturbed twin, which has the same roles. The same for a change of the inventory on running hosts.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import subprocess
import threading
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

import lab
from deploy.roles.redis import SORTED_WORDS
from tests.chaos.support import INVENTORY, REPEATS, ROOT, SPEC, altered, apply, drift, fleet, on

SEED = 20261124
LEFTOVERS = (
    "find / -xdev \\( -name '.fleet-*' -o -name '*.fleet-new' -o -name 'policy-rc.d' \\) -not -path '/proc/*'; "
    "systemctl list-timers --all --no-legend 'fleet-guard-*' | grep -o 'fleet-guard[^ ]*' || true; dpkg --audit"
)
COMPARED = "/etc /opt/omegaup /usr/local/lib/fleet"
NOT_COMPARED = (
    # A host's own: identity, keys, caches.
    "/etc/machine-id", "/etc/hostname", "/etc/resolv.conf", "/etc/ld.so.cache", "/etc/.pwd.lock", "/etc/ssh/ssh_host_*",
    "/etc/systemd/network/*", "*.pyc",
    # Numbers of accounts follow the order of installation, which a death may change: PARAMETERS has the accounts.
    "/etc/passwd*", "/etc/shadow*", "/etc/group*", "/etc/gshadow*", "/etc/subuid*", "/etc/subgid*",
    # Keys and certificates are each host's own: PARAMETERS has who may read them.
    "/etc/omegaup/ssl/*.key", "/etc/omegaup/ssl/*.crt",
    # What a server writes for itself.
    "/etc/redis/*/state.conf", "/etc/redis/sentinel/sentinel.conf",
)  # fmt: skip
"""Patterns of find -path."""


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
list() {{ sed -E '/^({OWN_VALUES})\t/d' | sort; }}
if [ -f /etc/fleet/redis.auth ]; then
  export REDISCLI_AUTH=$(cat /etc/fleet/redis.auth)
  for port in 16379 16380; do
    cli="redis-cli --user fleet --no-auth-warning -p $port"
    $cli CONFIG GET '*' | paste - - | list
    $cli ACL LIST | {SORTED_WORDS} | sort
  done
fi
if [ -S /run/mysqld/mysqld.sock ]; then
  ask() {{ mariadb --no-defaults -NB -e "$1"; }}
  ask 'SHOW GLOBAL VARIABLES' | list
  ask 'SELECT User, Host, JSON_REMOVE(Priv, "$.password_last_changed") FROM mysql.global_priv' | sort
  for kind in USER SCHEMA TABLE; do ask "SELECT * FROM information_schema.${{kind}}_PRIVILEGES" | sort; done
fi
if [ -f /etc/fleet/rabbitmq.curl ]; then
  # Where a member's schema lies is noted by the one that made the cluster alone.
  rabbitmqctl environment | tr -d ' \n' | sed -e 's/,{{schema_location,[a-z_]*}}//' -e 's/}},{{/}},\n{{/g'
  for path in policies users permissions exchanges; do
    curl -sf -m 10 -K /etc/fleet/rabbitmq.curl "http://127.0.0.1:15672/api/$path?columns=name,vhost,definition,pattern,\
priority,apply-to,password_hash,tags,user,configure,write,read,type,durable" | tr '{{' '\n' | sort
  done
fi
if command -v nginx >/dev/null; then nginx -T 2>/dev/null; fi
for php in /usr/sbin/php-fpm*; do
  [ ! -x "$php" ] || {{ "$php" -i | grep ' => ' | grep -v '^\$_\|^System\|^Build\|^PWD\|^SHLVL\|^_ =>'; }}
done
nft -s list ruleset
for name in net.core.somaxconn net.ipv4.tcp_retries2; do sysctl $name; done
dpkg-query -W -f '${{Package}} ${{Version}} ${{db:Status-Abbrev}}\n'
getent passwd | cut -d: -f1,6,7 | sort
getent passwd | cut -d: -f1 | xargs -n 1 id -Gn
stat -c '%n %a %U:%G' /etc/omegaup/ssl/*
find /etc /opt/omegaup /usr/local/lib/fleet /var/lib/fleet -xdev -type d -printf '%p %m %u:%g\n' | sort
systemctl list-unit-files --no-legend --state=enabled,masked | awk '{{ print $1, $2 }}'
for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | awk '{{ print $1 }}' |
  grep -E 'redis|mariadb|rabbitmq|nginx|php|omegaup|haproxy|prometheus' | sort); do
  printf '%s %s\n' "$unit" "$(grep 'open files' /proc/$(systemctl show -p MainPID --value $unit)/limits)"
done
"""


def neutral(text: str, host: str, twin: str) -> str:
    """Without which of the twins it is of: each lists the other, so both are called the same.

    Which of them stands where is the drift's to see, which knows what each host should have.
    """
    for name in (host, twin):
        if name:
            text = re.sub(rf"\b{name}\b", "TWIN", text)
            # Not a word of its own where a script puts something before it.
            text = re.sub(rf"{address(name)}\b", "TWIN-ADDRESS", text)
            text = re.sub(rf"\b{int(ip_address(SPEC.address(name)))}\b", "TWIN-NUMBER", text)
    # A digest of the whole file, the address in it included.
    text = re.sub(r"(?m)^( +description )[0-9a-f]{16}$", r"\1BUILD", text)
    return re.sub(r"\{ ([^{}]*) \}", lambda found: f"{{ {', '.join(sorted(found[1].split(', ')))} }}", text)


def parameters(host: str, twin: str = "") -> list[str]:
    """All that the host's servers run with, not only what the deployment sets."""
    return sorted(neutral(on(host, PARAMETERS), host, twin).splitlines())


def address(host: str) -> str:
    """An expression of its address, as it is or written as an expression itself."""
    return r"(\.|\[\.\])".join(SPEC.address(host).split("."))


def same(host: str, twin: str) -> None:
    """File by file and parameter by parameter, and nothing half-done about."""
    assert on(host, LEFTOVERS).strip() == ""
    assert contents(host, twin) == contents(twin, host)
    assert parameters(host, twin) == parameters(twin, host)


def contents(host: str, twin: str = "") -> dict[str, str]:
    """Path -> hash (or target), mode and owner of every file, without what is a host's own.

    Files that name a host of the two come whole: their difference may be in the name alone.
    """
    left_out = " ".join(f"! -path '{pattern}'" for pattern in NOT_COMPARED)
    names = [name for name in (host, twin) if name]
    words = "|".join((*names, *(address(name) for name in names), "server.id"))
    script = rf"""
find {COMPARED} -xdev {left_out} \( -type f -o -type l \) -printf '%p\t%m %u:%g %l\n'
echo @@
find {COMPARED} -xdev {left_out} -type f -print0 | xargs -0 sha256sum
echo @@
find {COMPARED} -xdev {left_out} -type f -print0 | xargs -0 grep -lIE '{words}' |
  while read -r file; do printf '%s\t%s\n' "$file" "$(base64 -w 0 "$file")"; done
"""
    owners, hashes, texts = on(host, script).split("@@\n")
    found = dict(line.split("\t", 1) for line in owners.splitlines())
    digest = {line[66:]: line[:64] for line in hashes.splitlines()}
    for line in texts.splitlines():
        path, encoded = line.split("\t")
        text = neutral(base64.b64decode(encoded).decode(), host, twin)
        digest[path] = hashlib.sha256(text.encode()).hexdigest()
    return {path: f"{digest.get(path, '')} {owner}" for path, owner in found.items()}


TWINS = {"web2": "web1", "data3": "data2"}


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_first_deploy_of_the_services_killed() -> None:
    """Their host has no twin: it is compared with what it was itself when nothing had died."""
    victim, chance = "app1", random.Random(f"{SEED}-app1")
    before = contents(victim), parameters(victim)
    lab.reset(SPEC, victim)
    killed = 0
    # Further apart than elsewhere: in the making of the virtual environment too.
    while killed < 6 and killed_apply(INVENTORY, victim, 1, chance.uniform(0.0, 3.0)):
        killed += 1
    assert killed >= 3, f"the deploy was over after {killed} kills"
    apply(victim)
    assert drift(victim) == set()
    assert on(victim, LEFTOVERS).strip() == ""
    assert (contents(victim), parameters(victim)) == before


POINTS = 1 if REPEATS == 1 else 10
DEATHS = 2 if REPEATS == 1 else 40
"""In the middle of a change."""


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    """How long an undisturbed first deploy of each victim takes."""
    return {}


@pytest.mark.thorough
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
    for point in range(DEATHS):
        inventory = inventories[(point + 1) % 2]
        killed += killed_apply(str(inventory), ",".join(hosts), 0, whole * (point + 0.5) / DEATHS)
        assert settled(inventory) == ends[inventory]
    assert killed >= DEATHS / 2
    apply(",".join(hosts))
    assert drift() == set()
