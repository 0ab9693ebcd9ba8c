"""Things changed by hand, one at a time and all together: named exactly, mended exactly, nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.support import SPEC, apply, drift, footprint, on

REDIS = "REDISCLI_AUTH=$(cat /etc/fleet/redis.auth) redis-cli --no-auth-warning --user fleet -e"
MYSQL = "mariadb -e"
APP, WEB = str(SPEC.hosts["app1"]), str(SPEC.hosts["web1"])


@dataclass(frozen=True)
class Case:
    """`keys`: what drift must name on `host`, all of it. `restores`: paths or units that the mending may touch."""

    name: str
    host: str
    script: str
    keys: frozenset[str]


def case(name: str, host: str, script: str, *keys: str) -> Case:
    return Case(name, host, script, frozenset(keys))


CASES = [
    # files
    case("content", "web1", "echo '# by hand' >>/etc/sysctl.d/60-fleet.conf", "file:/etc/sysctl.d/60-fleet.conf"),
    case("mode", "data1", "chmod 666 /etc/redis/cache/managed.conf", "file:/etc/redis/cache/managed.conf"),
    case("owner", "data2", "chown daemon /etc/redis/sessions/managed.conf", "file:/etc/redis/sessions/managed.conf"),
    case("file removed", "app1", "rm /etc/omegaup/ssl/ca.crt", "file:/etc/omegaup/ssl/ca.crt",
         "unit:omegaup-gitserver.service", "unit:omegaup-broadcaster.service", "unit:omegaup-grader.service"),
    case("file is a link", "mon1", "ln -sf /dev/null /etc/fleet/stamps/ssh.service",
         "file:/etc/fleet/stamps/ssh.service"),
    case("directory mode", "run1", "chmod 777 /etc/omegaup/runner", "directory:/etc/omegaup/runner"),
    case("hosts line", "web2", "echo '10.0.0.1 grader' >>/etc/hosts", "file:/etc/hosts"),
    case("stray installation policy", "mon1", "touch /usr/sbin/policy-rc.d", "file:/usr/sbin/policy-rc.d"),
    # packages
    case("package held", "data3", "apt-mark hold redis-server", "package:redis-server"),
    case("package removed", "run1", "dpkg --remove --force-depends python3-pika", "package:python3-pika"),
    # accounts
    case("account in another group", "app1", "gpasswd -a omegaup-grader adm", "account:omegaup-grader"),
    case("account's shell", "run1", "usermod -s /bin/bash omegaup-runner", "account:omegaup-runner"),
    # units
    case("unit stopped", "app1", "systemctl stop omegaup-broadcaster", "unit:omegaup-broadcaster.service"),
    case("unit disabled", "data2", "systemctl disable redis-sessions", "unit:redis-sessions.service"),
    case("unit masked", "web1", "systemctl mask nginx", "unit:nginx.service"),
    case("unwanted unit unmasked", "data1", "systemctl unmask redis-server", "unit:redis-server.service"),
    case("unit file", "app1", "echo '# by hand' >>/etc/systemd/system/omegaup-gitserver.service",
         "file:/etc/systemd/system/omegaup-gitserver.service", "unit:omegaup-gitserver.service"),
    case("service's configuration", "run1", "sed -i 's/\"slots\": 1/\"slots\": 7/' /etc/omegaup/runner/config.json",
         "file:/etc/omegaup/runner/config.json", "unit:omegaup-runner.service"),
    # running parameters
    case("redis maxmemory", "data1", f"{REDIS} -p 6379 CONFIG SET maxmemory 100mb", "redis-cache:maxmemory"),
    case("redis policy", "data2", f"{REDIS} -p 6379 CONFIG SET maxmemory-policy noeviction",
         "redis-cache:maxmemory-policy"),
    case("redis appendonly", "data3", f"{REDIS} -p 6380 CONFIG SET appendonly no", "redis-sessions:appendonly"),
    case("redis user widened", "data1", f"{REDIS} -p 6379 ACL SETUSER app +@all", "redis-cache: users"),
    case("redis user added", "data2", f"{REDIS} -p 6380 ACL SETUSER eve on nopass +@all", "redis-sessions: users"),
    case("kernel parameter", "web1", "sysctl -q -w net.core.somaxconn=128", "sysctl:net.core.somaxconn"),
    case("broker's memory watermark", "data1", "rabbitmqctl -q set_vm_memory_high_watermark 0.3",
         "rabbitmq-node:vm_memory_high_watermark.relative"),
    case("database parameter", "data1", f"{MYSQL} 'SET GLOBAL max_connections=77'", "mysql:max_connections"),
    # queues, users, grants
    case("queue and its binding", "data1", "rabbitmqctl -q delete_queue AnalyticsQueue.dead",
         "rabbitmq:queue AnalyticsQueue.dead", "rabbitmq:binding dead-letters/q/AnalyticsQueue.dead/AnalyticsQueue"),
    case("policy", "data1", "rabbitmqctl -q set_policy work-queues '^x$' '{\"max-length\":1}' --apply-to queues",
         "rabbitmq:policy work-queues"),
    case("broker's user added", "data1", "echo pw0123456789 | rabbitmqctl -q add_user stranger",
         "rabbitmq:user stranger"),
    case("broker's user widened", "data1", "rabbitmqctl -q set_user_tags omegaup administrator",
         "rabbitmq:user omegaup"),
    case("permission widened", "data1", "rabbitmqctl -q set_permissions omegaup '.*' '.*' '.*'",
         "rabbitmq:permission %2F/omegaup"),
    case("database user added", "data1", f"{MYSQL} \"CREATE USER evil@'%'\"", "mysql:account evil@%"),
    case("grant widened", "data1", f"{MYSQL} \"GRANT SUPER ON *.* TO 'worker'@'{APP}'\"", f"mysql:grants worker@{APP}"),
    case("grant taken", "data1", f"{MYSQL} \"REVOKE INSERT ON omegaup.* FROM 'omegaup'@'{WEB}'\"",
         f"mysql:grants omegaup@{WEB}"),
    case("replication stopped", "data2", f"{MYSQL} 'STOP SLAVE'", "mysql:threads", "mysql:semi-sync"),
    case("commits wait for nobody", "data1", f"{MYSQL} 'SET GLOBAL rpl_semi_sync_master_enabled=OFF'",
         "mysql:semi-sync"),
    case("sentinel's quorum", "data3", f"{REDIS} -p 26379 SENTINEL SET cache quorum 1", "sentinel: cache quorum"),
    case("proxy's configuration", "web1", "echo '# by hand' >>/etc/haproxy/haproxy.cfg",
         "file:/etc/haproxy/haproxy.cfg", "unit:haproxy.service", "haproxy:build", "haproxy:files"),
    case("replica made writable", "data3", f"{MYSQL} 'SET GLOBAL read_only=0'", "mysql:read_only"),
    # firewall
    case("firewall rule added", "web2", "nft insert rule inet fleet input tcp dport 9999 accept", "firewall"),
    case("firewall flushed", "data2", "nft flush ruleset", "firewall"),
    case("firewall table added", "app1", "nft add table ip stranger", "firewall"),
    # keys
    case("key replaced", "app1",
         "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out /etc/omegaup/ssl/grader.key 2>/dev/null",
         "certificate:/etc/omegaup/ssl/grader.crt", "unit:omegaup-grader.service"),
    case("key readable by all", "app1", "chmod 644 /etc/omegaup/ssl/gitserver.key",
         "certificate:/etc/omegaup/ssl/gitserver.crt"),
    case("certificate removed", "run1", "rm /etc/omegaup/ssl/runner.crt", "certificate:/etc/omegaup/ssl/runner.crt",
         "unit:omegaup-runner.service"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    """A fleet that is what its inventory says, before and after."""
    apply()
    assert drift() == set()
    yield
    apply()


@pytest.mark.parametrize("item", CASES, ids=[item.name for item in CASES])
def test_one_at_a_time(item: Case) -> None:
    on(item.host, item.script)
    assert drift(item.host) == {(item.host, key) for key in item.keys}
    done = {(step["host"], step["key"]) for step in apply(item.host)["done"]}
    assert done, "nothing was mended"
    assert done <= {(item.host, key) for key in item.keys}
    assert drift(item.host) == set()


def test_all_together() -> None:
    """Every case on its host at once; hosts that nobody touched stay as they are."""
    chosen: dict[tuple[str, str], Case] = {}
    for item in CASES:
        # Two cases that concern the same thing on the same host would hide one another.
        if not any((item.host, key) in chosen for key in item.keys):
            chosen.update({(item.host, key): item for key in item.keys})
    cases = list(dict.fromkeys(chosen.values()))
    for item in cases:
        on(item.host, item.script)
    wanted = {(item.host, key) for item in cases for key in item.keys}
    assert drift() == wanted
    done = {(step["host"], step["key"]) for step in apply()["done"]}
    assert done <= wanted
    assert drift() == set()


def test_nothing_to_do_touches_nothing() -> None:
    hosts = ("data1", "web1", "app1", "run1", "mon1")
    before = {host: footprint(host) for host in hosts}
    report = apply()
    assert report["done"] == []
    assert {host: footprint(host) for host in hosts} == before
