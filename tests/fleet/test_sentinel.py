"""Sentinel as it runs: who it watches, whom it knows, what it would do."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles.common import CA_FILE
from deploy.roles.redis_cli import client, tls
from tests.fleet.conftest import loaded
from tests.fleet.test_redis import INSTANCES

pytestmark = pytest.mark.service("sentinel")


def ask(host: Host, command: str) -> list[str]:
    return str(host.check_output(f"{client(loaded()[1].hosts[0], 'sentinel')} {command}")).splitlines()


def fields(lines: list[str]) -> dict[str, str]:
    return dict(zip(lines[::2], lines[1::2], strict=False))


@pytest.mark.parametrize("instance", INSTANCES)
def test_parameters(host: Host, spec: HostSpec, fleet: Fleet, instance: str) -> None:
    found = fields(ask(host, f"SENTINEL MASTER {instance}"))
    settings = spec.settings.sentinel
    assert found["quorum"] == str(len(fleet.members("sentinel")) // 2 + 1)
    assert found["down-after-milliseconds"] == str(int(settings.down_after * 1000))
    assert found["failover-timeout"] == str(int(settings.failover_timeout * 1000))
    assert found["parallel-syncs"] == str(settings.parallel_syncs)
    assert found["flags"] == "master"


@pytest.mark.parametrize("instance", INSTANCES)
def test_knows_the_others_and_can_decide(host: Host, spec: HostSpec, fleet: Fleet, instance: str) -> None:
    found = fields(ask(host, f"SENTINEL MASTER {instance}"))
    assert int(found["num-other-sentinels"]) == len(fleet.members("sentinel")) - 1
    assert int(found["num-slaves"]) == len(fleet.members("redis")) - 1
    assert ask(host, f"SENTINEL CKQUORUM {instance}")[0].startswith("OK")


def test_nobody_gets_in_without_a_password(host: Host, spec: HostSpec) -> None:
    port = spec.local(SERVICES["sentinel"], "sentinel")
    assert "NOAUTH" in host.run(f"redis-cli -p {port} SENTINEL MASTERS").stdout


def test_at_the_port_of_others_a_certificate_is_asked_for(host: Host, spec: HostSpec) -> None:
    port = SERVICES["sentinel"].port("sentinel")
    if not spec.mutual(port):
        pytest.skip("redis.tls is off")
    ask = f"timeout 5 redis-cli -h {spec.address} -p {port.number}"
    assert "NOAUTH" not in host.run(f"{ask} PING").stdout, "without TLS"
    assert "NOAUTH" not in host.run(f"{ask} --tls --cacert {CA_FILE} PING").stdout, "without a certificate"
    assert "NOAUTH" in host.run(f"{ask} {tls('sentinel')} PING").stdout


def test_sentinels_among_themselves_may_not_reconfigure(host: Host, spec: HostSpec) -> None:
    for command in ("SENTINEL FAILOVER cache", "SENTINEL SET cache quorum 1", "SENTINEL REMOVE cache", "ACL LIST"):
        assert "no permissions" in ask(host, f"ACL DRYRUN peer {command}")[0]
