"""The spec's health table, one test a row and host, asked as the spec says."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from deploy.model.catalog import SSL_DIR, Check, Health, Service
from deploy.model.fleet import HostSpec
from deploy.roles.redis_cli import caller
from tests.fleet import test_proxy as proxy
from tests.fleet import test_sentinel as sentinel
from tests.fleet.conftest import connection, loaded
from tests.fleet.test_redis import INSTANCES

ROWS = [(host, service, health) for host in loaded()[1].hosts for service in host.services for health in service.health]


@pytest.mark.parametrize(("place", "service", "health"), ROWS, ids=[f"{r[2].label}-{r[0].name}" for r in ROWS])
def test_health(place: HostSpec, service: Service, health: Health) -> None:
    host: Host = connection(place.name)
    port = service.port(health.port).number
    match health.check:
        case Check.HTTP:
            assert _code(host, f"http://127.0.0.1:{port}{health.path}") == "200"
        case Check.HTTPS:
            pair = f"--cert {SSL_DIR}/{service.name}.crt --key {SSL_DIR}/{service.name}.key --cacert {SSL_DIR}/ca.crt"
            assert _code(host, f"{pair} https://{place.name}:{port}{health.path}") == "200"
        case Check.TCP:
            assert host.run(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{place.address}/{port}; head -c 4 <&3'").rc == 0
        case Check.REDIS:
            assert host.check_output(f"{caller(place, health.port, place.address)} ping") == "PONG"
        case Check.RABBITMQ:
            login = 'printf \'user = "%s"\\n\' "$(cat /etc/fleet/rabbitmq.auth)"'
            assert _code(host, f"--config - http://127.0.0.1:{port}{health.path}", before=f"{login} | ") == "200"
        case Check.SENTINEL:
            for instance in INSTANCES:
                assert sentinel.ask(host, f"SENTINEL CKQUORUM {instance}")[0].startswith("OK ")
        case Check.PROXY:
            states = proxy.backends(host)
            assert states
            assert {name: state for name, state in states.items() if state != "UP"} == {}
        case _:
            pytest.fail(f"no test of {health.check}")


def _code(host: Host, arguments: str, before: str = "") -> str:
    return str(host.run(f"{before}curl -s -m 10 -o /dev/null -w '%{{http_code}}' {arguments}").stdout)
