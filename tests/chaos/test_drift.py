"""Things changed by hand, one at a time and all together: named exactly, mended exactly, nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.roles.rabbitmq_topology import API
from tests.chaos.failover import database, the_fleet
from tests.chaos.support import SPEC, apply, drift, fleet, footprints, on, sampled, touched

REDIS = "REDISCLI_AUTH=$(cat /etc/fleet/redis.auth) redis-cli --no-auth-warning --user fleet -e"
MYSQL = "mariadb -e"
APP, WEB = str(SPEC.hosts["app1"]), str(SPEC.hosts["web1"])


PRIMARY, REPLICA, OTHER = "PRIMARY", "REPLICA", "OTHER"
"""Hosts by what the database's members say when a case begins: a failover may have moved them."""

OWN = ("/etc/redis/sentinel/sentinel.conf",)
"""Written by a server whenever it has something to remember."""


@dataclass(frozen=True)
class Case:
    """A change by hand.

    keys: what drift must name on `host`, all of it. with_it: those of them that the mending of another mends as well.
    touches: the files and units, besides those that the keys are about, that the mending changes; untouched: keys whose
    file or unit it leaves as it is (a unit that is enabled or reloaded is not started again).
    """

    name: str
    host: str
    script: str
    keys: frozenset[str]
    with_it: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()
    untouched: frozenset[str] = frozenset()

    @property
    def mended(self) -> frozenset[str]:
        return self.keys - self.with_it

    @property
    def changes(self) -> frozenset[str]:
        """Files and units that are not afterwards what they were before the mending."""
        found = set(self.touches)
        for key in self.keys - self.untouched:
            kind, _, name = key.partition(":")
            if kind in {"file", "unit"}:
                found.add(name)
            elif kind == "certificate":
                found |= {name, name.replace(".crt", ".key")}
        return frozenset(found)


def replaced(service: str) -> str:
    """Another key in place of a service's own."""
    return f"openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out /etc/omegaup/ssl/{service}.key 2>&1"


def case(name: str, host: str, script: str, *keys: str, with_it: tuple[str, ...] = (), touches: tuple[str, ...] = (),
         untouched: tuple[str, ...] = ()) -> Case:  # fmt: skip
    return Case(name, host, script, frozenset(keys), frozenset(with_it), frozenset(touches), frozenset(untouched))


def hosts() -> dict[str, str]:
    """Name in a case -> host."""
    primary = database()
    replicas = [host.name for host in the_fleet().members("mysql") if host.name != primary]
    return dict(zip((PRIMARY, REPLICA, OTHER), (primary, *replicas), strict=True)) | {n: n for n in SPEC.hosts}


# What a server has loaded is again what is there once the file is: nothing to be loaded anew.
LOAD_CA = (
    "unit:omegaup-gitserver.service", "unit:omegaup-broadcaster.service", "unit:omegaup-grader.service",
    "unit:fleet-door.service", "unit:systemd-journal-upload.service", "unit:haproxy.service",
)  # fmt: skip
HAPROXY = ("unit:haproxy.service", "haproxy:build")
WANTS = "/etc/systemd/system/multi-user.target.wants"
CASES = [
    # files
    case("content", "web1", "echo '# by hand' >>/etc/sysctl.d/60-fleet.conf", "file:/etc/sysctl.d/60-fleet.conf"),
    case("mode", "data1", "chmod 666 /etc/redis/cache/managed.conf", "file:/etc/redis/cache/managed.conf"),
    case("owner", "data2", "chown daemon /etc/redis/sessions/managed.conf", "file:/etc/redis/sessions/managed.conf"),
    case("file removed", "app1", "rm /etc/omegaup/ssl/ca.crt", "file:/etc/omegaup/ssl/ca.crt",
         *LOAD_CA, with_it=LOAD_CA, untouched=LOAD_CA),
    case("file is a link", "mon1", "ln -sf /dev/null /etc/fleet/stamps/ssh.service",
         "file:/etc/fleet/stamps/ssh.service"),
    case("directory mode", "run1", "chmod 777 /etc/omegaup/runner", "directory:/etc/omegaup/runner"),
    case("hosts line", "web2", "echo '10.0.0.1 grader' >>/etc/hosts", "file:/etc/hosts"),
    case("stray installation policy", "mon1", "touch /usr/sbin/policy-rc.d", "file:/usr/sbin/policy-rc.d",
         untouched=("file:/usr/sbin/policy-rc.d",)),
    # packages
    case("package held", "data3", "apt-mark hold redis-server", "package:redis-server"),
    case("package removed", "run1", "dpkg --remove --force-depends python3-pika", "package:python3-pika"),
    # accounts
    case("account in another group", "app1", "gpasswd -a omegaup-grader adm", "account:omegaup-grader",
         touches=("/etc/group", "/etc/group-", "/etc/gshadow", "/etc/gshadow-")),
    case("account's shell", "run1", "usermod -s /bin/bash omegaup-runner", "account:omegaup-runner",
         touches=("/etc/passwd", "/etc/passwd-")),
    # units
    case("unit stopped", "app1", "systemctl stop omegaup-broadcaster", "unit:omegaup-broadcaster.service"),
    case("web server stopped", "web2", "systemctl stop nginx", "unit:nginx.service"),
    case("unit disabled", "data2", "systemctl disable redis-sessions", "unit:redis-sessions.service",
         touches=(f"{WANTS}/redis-sessions.service",), untouched=("unit:redis-sessions.service",)),
    case("unit masked", "web1", "systemctl mask nginx", "unit:nginx.service",
         touches=("/etc/systemd/system/nginx.service",), untouched=("unit:nginx.service",)),
    case("unwanted unit unmasked", "data1", "systemctl unmask redis-server", "unit:redis-server.service",
         touches=("/etc/systemd/system/redis-server.service",), untouched=("unit:redis-server.service",)),
    case("unit file", "app1", "echo '# by hand' >>/etc/systemd/system/omegaup-gitserver.service",
         "file:/etc/systemd/system/omegaup-gitserver.service", "unit:omegaup-gitserver.service",
         untouched=("unit:omegaup-gitserver.service",)),
    case("service's configuration", "run1", "sed -i 's/\"slots\": 1/\"slots\": 7/' /etc/omegaup/runner/config.json",
         "file:/etc/omegaup/runner/config.json", "unit:omegaup-runner.service",
         with_it=("unit:omegaup-runner.service",), untouched=("unit:omegaup-runner.service",)),
    # running parameters
    case("redis maxmemory", "data1", f"{REDIS} -p 16379 CONFIG SET maxmemory 100mb", "redis-cache:maxmemory"),
    case("redis policy", "data2", f"{REDIS} -p 16379 CONFIG SET maxmemory-policy noeviction",
         "redis-cache:maxmemory-policy"),
    case("redis appendonly", "data3", f"{REDIS} -p 16380 CONFIG SET appendonly no", "redis-sessions:appendonly"),
    case("redis user widened", "data1", f"{REDIS} -p 16379 ACL SETUSER app +@all", "redis-cache: users",
         touches=("/var/lib/fleet/redis-cache.acl",)),
    case("redis user added", "data2", f"{REDIS} -p 16380 ACL SETUSER eve on nopass +@all", "redis-sessions: users",
         touches=("/var/lib/fleet/redis-sessions.acl",)),
    case("redis user removed", "data3", f"{REDIS} -p 16380 ACL DELUSER app", "redis-sessions: users",
         touches=("/var/lib/fleet/redis-sessions.acl",)),
    case("kernel parameter", "web1", "sysctl -q -w net.core.somaxconn=128", "sysctl:net.core.somaxconn"),
    case("broker's memory watermark", "data1", "rabbitmqctl -q set_vm_memory_high_watermark 0.3",
         "rabbitmq-node:vm_memory_high_watermark.relative"),
    case("database parameter", PRIMARY, f"{MYSQL} 'SET GLOBAL max_connections=77'", "mysql:max_connections"),
    # queues, users, grants
    case("queue and its binding", "data1", "rabbitmqctl -q delete_queue AnalyticsQueue.dead",
         "rabbitmq:queue AnalyticsQueue.dead", "rabbitmq:binding dead-letters/q/AnalyticsQueue.dead/AnalyticsQueue"),
    case("binding", "data1", f"{API} DELETE bindings/%2F/e/certificates/q/ContestQueue/ContestQueue </dev/null",
         "rabbitmq:binding certificates/q/ContestQueue/ContestQueue"),
    case("binding added", "data1",
         f"echo '{{\"routing_key\": \"other\"}}' | {API} POST bindings/%2F/e/certificates/q/AnalyticsQueue",
         "rabbitmq:binding certificates/q/AnalyticsQueue/other"),
    case("queue added", "data1", f"echo '{{\"durable\": true}}' | {API} PUT queues/%2F/stray",
         "rabbitmq:stray-queue stray"),
    case("exchange", "data1", f"{API} DELETE exchanges/%2F/analytics </dev/null", "rabbitmq:exchange analytics",
         "rabbitmq:binding analytics/q/AnalyticsQueue/AnalyticsQueue"),
    case("exchange added", "data1", f"echo '{{\"type\": \"direct\"}}' | {API} PUT exchanges/%2F/stray",
         "rabbitmq:exchange stray"),
    case("policy removed", "data1", "rabbitmqctl -q clear_policy work-queues", "rabbitmq:policy work-queues"),
    case("policy", "data1", "rabbitmqctl -q set_policy work-queues '^x$' '{\"max-length\":1}' --apply-to queues",
         "rabbitmq:policy work-queues"),
    case("broker's user added", "data1", "echo pw0123456789 | rabbitmqctl -q add_user stranger",
         "rabbitmq:user stranger"),
    case("broker's user widened", "data1", "rabbitmqctl -q set_user_tags omegaup administrator",
         "rabbitmq:user omegaup"),
    case("permission widened", "data1", "rabbitmqctl -q set_permissions omegaup '.*' '.*' '.*'",
         "rabbitmq:permission %2F/omegaup"),
    case("permission removed", "data1", "rabbitmqctl -q clear_permissions monitoring",
         "rabbitmq:permission %2F/monitoring"),
    case("broker's user removed", "data1", "rabbitmqctl -q delete_user omegaup", "rabbitmq:user omegaup",
         "rabbitmq:password omegaup", "rabbitmq:permission %2F/omegaup"),
    case("database user removed", PRIMARY, f"{MYSQL} \"DROP USER 'grader'@'{APP}'\"", f"mysql:account grader@{APP}",
         f"mysql:grants grader@{APP}", f"mysql:requires grader@{APP}"),
    case("database user added", PRIMARY, f"{MYSQL} \"CREATE USER evil@'%'\"", "mysql:account evil@%"),
    case("grant widened", PRIMARY, f"{MYSQL} \"GRANT SUPER ON *.* TO 'worker'@'{APP}'\"", f"mysql:grants worker@{APP}"),
    case("grant taken", PRIMARY, f"{MYSQL} \"REVOKE INSERT ON omegaup.* FROM 'omegaup'@'{WEB}'\"",
         f"mysql:grants omegaup@{WEB}"),
    case("replication stopped", REPLICA, f"{MYSQL} 'STOP SLAVE'", "mysql:threads", "mysql:semi-sync"),
    case("commits wait for nobody", PRIMARY, f"{MYSQL} 'SET GLOBAL rpl_semi_sync_master_enabled=OFF'",
         "mysql:semi-sync"),
    case("sentinel's quorum", "data3", f"{REDIS} -p 36379 SENTINEL SET cache quorum 1", "sentinel: cache quorum"),
    case("proxy's configuration", "web1", "echo '# by hand' >>/etc/haproxy/haproxy.cfg",
         "file:/etc/haproxy/haproxy.cfg", *HAPROXY, "haproxy:files", with_it=HAPROXY, untouched=HAPROXY),
    case("replica made writable", OTHER, f"{MYSQL} 'SET GLOBAL read_only=0'", "mysql:read_only"),
    # firewall
    case("firewall rule added", "web2", "nft insert rule inet fleet input tcp dport 9999 accept", "firewall"),
    case("firewall flushed", "data2", "nft flush ruleset", "firewall"),
    case("firewall table added", "app1", "nft add table ip stranger", "firewall"),
    # keys
    case("key replaced", "app1", replaced("grader"), "certificate:/etc/omegaup/ssl/grader.crt",
         "unit:omegaup-grader.service", untouched=("unit:omegaup-grader.service",)),
    # nginx shows it to the broadcaster, for the events.
    case("client's key replaced", "web2", replaced("frontend"), "certificate:/etc/omegaup/ssl/frontend.crt",
         "unit:nginx.service", untouched=("unit:nginx.service",)),
    case("key readable by all", "app1", "chmod 644 /etc/omegaup/ssl/gitserver.key",
         "certificate:/etc/omegaup/ssl/gitserver.crt", touches=("/etc/omegaup/ssl/gitserver.key",),
         untouched=("certificate:/etc/omegaup/ssl/gitserver.crt",)),
    case("certificate removed", "run1", "rm /etc/omegaup/ssl/runner.crt", "certificate:/etc/omegaup/ssl/runner.crt",
         "unit:omegaup-runner.service", untouched=("unit:omegaup-runner.service",)),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    """A fleet that is what its inventory says, before and after."""
    apply()
    assert drift() == set()
    yield
    apply()


def test_kinds() -> None:
    assert len(CASES) >= 30
    assert len({item.name for item in CASES}) == len(CASES)


def mended(cases: list[Case], where: dict[str, str]) -> None:
    """Drift names all of it and nothing else on the whole fleet; apply mends that; nothing else is touched."""
    wanted = {(where[item.host], key) for item in cases for key in item.keys}
    assert drift() == wanted
    before = footprints()
    # It ends with a look at every host: what still differs makes it fail.
    done = {(step["host"], step["key"]) for step in apply()["done"]}
    after = footprints()
    assert done == {(where[item.host], key) for item in cases for key in item.mended}
    changes = {(where[item.host], name) for item in cases for name in item.changes}
    assert {(host, name) for host, name in touched(before, after) if name not in OWN} == changes


@pytest.mark.parametrize("item", sampled(CASES, 64))
def test_one_at_a_time(item: Case) -> None:
    where = hosts()
    on(where[item.host], item.script)
    try:
        mended([item], where)
    except AssertionError:
        # The next one is judged by itself.
        fleet("apply")
        raise


def test_all_together() -> None:
    """Every case on its host at once."""
    where = hosts()
    chosen: dict[tuple[str, str], Case] = {}
    for item in CASES:
        # Two cases that concern the same thing on the same host would hide one another; a reload hides nothing.
        concerns = {(where[item.host], name) for name in (item.keys - item.untouched) | item.changes}
        if not any(one in chosen for one in concerns):
            chosen.update(dict.fromkeys(concerns, item))
    cases = list(dict.fromkeys(chosen.values()))
    assert {"web server stopped", "client's key replaced"} <= {item.name for item in cases}
    for item in cases:
        on(where[item.host], item.script)
    mended(cases, where)
    assert drift() == set()


def test_nothing_to_do_touches_nothing() -> None:
    before = footprints()
    report = apply()
    assert report["done"] == []
    assert touched(before, footprints()) == set()
