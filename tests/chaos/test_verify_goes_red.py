"""`fleet verify` fails when the fleet is wrong: for each fault, at the test that is about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.failover import database, the_fleet
from tests.chaos.support import apply, drift, fleet, on, sampled

REDIS = "REDISCLI_AUTH=$(cat /etc/fleet/redis.auth) redis-cli --no-auth-warning --user fleet -e"
STRAY = "systemd-run --quiet --collect --unit=stranger"


@dataclass(frozen=True)
class Fault:
    """`red`: the test that must fail; `undo`: what apply does not (a thing that is not the deployment's)."""

    name: str
    host: str
    script: str
    red: str
    undo: str = ""


FAULTS = [
    Fault("service stopped", "data2", "systemctl stop redis-cache", "test_health[Redis (cache)-data2]"),
    Fault("backend stopped", "app1", "systemctl stop omegaup-grader", "test_health[Grader-app1]"),
    Fault("web server stopped", "web2", "systemctl stop nginx", "test_health[Frontend-web2]"),
    Fault("running parameter", "data1", f"{REDIS} -p 16379 CONFIG SET maxmemory 1gb",
          "test_cache_evicts_as_the_spec_says[data1]"),
    Fault("sessions evicted", "data1", f"{REDIS} -p 16380 CONFIG SET maxmemory-policy allkeys-lru",
          "test_sessions_are_never_evicted[data1]"),
    Fault("application may administer", "data3", f"{REDIS} -p 16379 ACL SETUSER app +@all",
          "test_application_may_not_administer[data3-cache]"),
    Fault("user added", "data3", f"{REDIS} -p 16380 ACL SETUSER eve on nopass",
          "test_users_are_the_deployments[data3-sessions]"),
    Fault("firewall gone", "web1", "nft flush ruleset", "test_firewall_drops_what_the_catalog_does_not_name[web1]"),
    Fault("port opened by a stranger", "app1", f"{STRAY} python3 -m http.server 7777",
          "test_nothing_else_listens_to_the_network[app1]", "systemctl stop stranger"),
    Fault("name lost", "web1", "sed -i '/ grader$/d' /etc/hosts", "test_names_of_services_resolve_to_members[web1]"),
    Fault("kernel parameter", "web2", "sysctl -q -w net.core.somaxconn=200", "test_kernel_parameters[web2]"),
    Fault("passwords at SSH", "run1", "echo 'PasswordAuthentication yes' >/etc/ssh/sshd_config.d/00-x.conf",
          "test_sshd_runs_hardened[run1]", "rm /etc/ssh/sshd_config.d/00-x.conf"),
    Fault("not at boot", "data2", "systemctl disable redis-sessions", "test_units_run_and_start_at_boot[data2]"),
    Fault("failed unit", "run1", f"{STRAY} --property=CollectMode=inactive false",
          "test_systemd_has_no_failed_unit[run1]", "systemctl reset-failed stranger"),
    Fault("readable key", "app1", "chmod 444 /etc/omegaup/ssl/grader.key",
          "test_key_is_the_services_alone[grader-app1]"),
    Fault("readable secret", "app1", "chmod 644 /etc/omegaup/grader/config.json",
          "test_no_secret_is_readable_by_everybody[app1]"),
    Fault("other certificate on disk", "app1",
          "cd /etc/omegaup/ssl; cp -p gitserver.crt /root/was; cp grader.crt gitserver.crt",
          "test_what_is_served_is_what_is_on_disk[gitserver-https-app1]",
          "cp -p /root/was /etc/omegaup/ssl/gitserver.crt"),
    Fault("primary read-only", "PRIMARY", "mariadb -e 'SET GLOBAL read_only=1'", "test_one_writable_database"),
    Fault("replica stopped", "REPLICA", "mariadb -e 'STOP SLAVE'", "test_replicas_run_and_keep_up[REPLICA]"),
    Fault("sentinel stopped", "data2", "systemctl stop redis-sentinel", "test_health[Sentinel-data2]"),
    Fault("sentinel's quorum", "data3", f"{REDIS} -p 36379 SENTINEL SET sessions quorum 1",
          "test_parameters[data3-sessions]"),
    Fault("proxy stopped", "web1", "systemctl stop haproxy", "test_health[Proxy-web1]"),
    Fault("broker stopped", "data3", "systemctl stop rabbitmq-server", "test_health[RabbitMQ-data3]"),
    Fault("default user of the broker", "data1", "echo guest | rabbitmqctl -q add_user guest >/dev/null",
          "test_users[data1]"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    apply()
    yield
    apply()
    assert drift() == set()


@pytest.mark.parametrize("fault", sampled(FAULTS, 24))
def test_goes_red(fault: Fault) -> None:
    name = re.match(r"\w+", fault.red)
    assert name
    # Who leads the database by now.
    primary = database()
    names = {"PRIMARY": primary, "REPLICA": next(h.name for h in the_fleet().members("mysql") if h.name != primary)}
    host, red = names.get(fault.host, fault.host), fault.red.replace("REPLICA", names["REPLICA"])
    on(host, fault.script)
    try:
        done = fleet("verify", "-k", name[0])
    finally:
        if fault.undo:
            on(host, fault.undo)
        apply(host)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    found = re.findall(r"^FAILED \S+?::(.*?)(?: - .*)?$", done.stdout, flags=re.M)
    assert red in found, found


@pytest.mark.thorough
def test_is_green_when_all_is_well() -> None:
    done = fleet("verify")
    assert done.returncode == 0, done.stdout[-3000:]
