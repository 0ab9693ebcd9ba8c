"""Redis as it runs."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles.common import CA_FILE
from deploy.roles.redis_cli import client, tls
from deploy.roles.redis_listeners import listeners
from tests.fleet.conftest import loaded

pytestmark = pytest.mark.service("redis")
INSTANCES = ("cache", "sessions")


def ask(host: Host, instance: str, command: str) -> list[str]:
    return str(host.check_output(f"{client(loaded()[1].hosts[0], instance)} {command}")).splitlines()


def value(host: Host, instance: str, name: str) -> str:
    return ask(host, instance, f"CONFIG GET {name}")[1]


def info(host: Host, instance: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in ask(host, instance, "INFO replication") if ":" in line)


def test_cache_evicts_as_the_spec_says(host: Host, spec: HostSpec) -> None:
    assert value(host, "cache", "maxmemory") == str(spec.settings.redis.maxmemory)
    assert value(host, "cache", "maxmemory-policy") == spec.settings.redis.maxmemory_policy


def test_sessions_are_never_evicted(host: Host, spec: HostSpec) -> None:
    assert value(host, "sessions", "maxmemory-policy") == "noeviction"
    assert value(host, "sessions", "maxmemory") == str(spec.settings.redis.sessions_maxmemory)


@pytest.mark.parametrize("instance", INSTANCES)
def test_connections_and_persistence(host: Host, spec: HostSpec, instance: str) -> None:
    assert value(host, instance, "tcp-keepalive") == str(spec.settings.redis.tcp_keepalive)
    assert value(host, instance, "appendonly") == "yes"
    assert value(host, instance, "appendfsync") == "everysec"


@pytest.mark.parametrize("instance", INSTANCES)
def test_nobody_gets_in_without_a_password(host: Host, spec: HostSpec, instance: str) -> None:
    port = spec.local(SERVICES["redis"], instance)
    assert "NOAUTH" in host.run(f"redis-cli -p {port} GET x").stdout


@pytest.mark.parametrize("instance", INSTANCES)
def test_speaks_to_other_hosts_as_the_settings_say(host: Host, spec: HostSpec, instance: str) -> None:
    for name, wanted in listeners(spec, instance).items():
        assert value(host, instance, name) == wanted


@pytest.mark.parametrize("instance", INSTANCES)
def test_at_the_port_of_others_a_certificate_is_asked_for(host: Host, spec: HostSpec, instance: str) -> None:
    port = SERVICES["redis"].port(instance)
    if not spec.mutual(port):
        pytest.skip("redis.tls is off")
    ask = f"timeout 5 redis-cli -h {spec.address} -p {port.number}"
    assert "NOAUTH" not in host.run(f"{ask} GET x").stdout, "without TLS"
    assert "NOAUTH" not in host.run(f"{ask} --tls --cacert {CA_FILE} GET x").stdout, "without a certificate"
    assert "NOAUTH" in host.run(f"{ask} {tls(instance)} GET x").stdout


@pytest.mark.parametrize("instance", INSTANCES)
def test_application_may_not_administer(host: Host, spec: HostSpec, instance: str) -> None:
    allowed, other = ("ratelimit:x", "session:x") if instance == "cache" else ("session:x", "ratelimit:x")
    assert ask(host, instance, f"ACL DRYRUN app SET {allowed} v") == ["OK"]
    assert "no permissions" in ask(host, instance, f"ACL DRYRUN app SET {other} v")[0]
    for command in ("CONFIG GET maxmemory", "FLUSHALL", "KEYS '*'", "SHUTDOWN", "REPLICAOF NO ONE"):
        assert "no permissions" in ask(host, instance, f"ACL DRYRUN app {command}")[0]


@pytest.mark.parametrize("instance", INSTANCES)
def test_users_are_the_deployments(host: Host, spec: HostSpec, instance: str) -> None:
    assert set(ask(host, instance, "ACL USERS")) == {
        "default", "fleet", "replica", "app", "proxy", "sentinel", "exporter", "probe",
    }  # fmt: skip
    assert any("user default off" in line for line in ask(host, instance, "ACL LIST"))


@pytest.mark.parametrize("instance", INSTANCES)
def test_replicas_follow_and_are_in_step(host: Host, spec: HostSpec, fleet: Fleet, instance: str) -> None:
    found = info(host, instance)
    if found["role"] == "master":
        assert int(found["connected_slaves"]) == len(fleet.members("redis")) - 1
    else:
        assert found["master_link_status"] == "up"
        assert found["master_host"] in {member.address for member in fleet.members("redis")}


@pytest.mark.parametrize("instance", INSTANCES)
def test_a_primary_without_replicas_takes_no_write(host: Host, spec: HostSpec, fleet: Fleet, instance: str) -> None:
    wanted = min(spec.settings.redis.min_replicas_to_write, len(fleet.members("redis")) - 1)
    assert value(host, instance, "min-replicas-to-write") == str(wanted)
    assert value(host, instance, "min-replicas-max-lag") == str(spec.settings.redis.min_replicas_max_lag)


@pytest.mark.parametrize("instance", INSTANCES)
def test_listens_beside_the_proxy(host: Host, spec: HostSpec, instance: str) -> None:
    assert value(host, instance, "bind").split() == [spec.address, "127.0.0.1"]


def test_persistence_is_well(host: Host, spec: HostSpec) -> None:
    for instance in INSTANCES:
        state = dict(line.split(":", 1) for line in ask(host, instance, "INFO persistence") if ":" in line)
        assert state["aof_last_write_status"] == "ok"
        assert state["rdb_last_bgsave_status"] == "ok"
