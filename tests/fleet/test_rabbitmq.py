"""RabbitMQ as it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

from deploy.model.catalog import DEAD_LETTERS, EXCHANGES, PROXY_ADDRESS, QUEUES
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles.rabbitmq import DUMP

pytestmark = pytest.mark.service("rabbitmq")


def api(host: Host, path: str) -> Any:
    """What the management API says to the deployment's own user."""
    return json.loads(
        host.check_output(f"curl -sf -m 10 -K /etc/fleet/rabbitmq.curl http://127.0.0.1:15672/api/{path}")
    )


def evaluate(host: Host, expression: str) -> str:
    return told(host, f"rabbitmqctl eval '{expression}.'")


def told(host: Host, command: str) -> str:
    """What a tool says. It ends with 69 (unavailable) where a busy host lets its handshake take too long: asked again,
    since that says nothing of the broker. Twice more: one that is gone stays so.
    """
    for _ in range(2):
        done = host.run(command)
        if done.rc != 69:
            break
    return str(host.check_output(command) if done.rc else done.stdout).strip()


def test_memory_watermark(host: Host, spec: HostSpec) -> None:
    running = evaluate(host, "vm_memory_monitor:get_vm_memory_high_watermark()")
    assert float(running.replace("{relative,", "").strip("{}")) == spec.settings.rabbitmq.vm_memory_high_watermark


def test_disk_limit(host: Host, spec: HostSpec) -> None:
    assert int(evaluate(host, "rabbit_disk_monitor:get_disk_free_limit()")) == spec.settings.rabbitmq.disk_free_limit


def test_channels_and_heartbeat(host: Host, spec: HostSpec) -> None:
    for name in ("channel_max", "heartbeat"):
        assert evaluate(host, f"application:get_env(rabbit, {name})") == (
            f"{{ok,{getattr(spec.settings.rabbitmq, name)}}}"
        )


def test_queues_of_the_spec(host: Host, spec: HostSpec) -> None:
    found = {queue["name"]: queue for queue in api(host, "queues")}
    for queue in QUEUES:
        assert found[queue.name]["durable"]
        assert found[queue.name]["type"] == "quorum"
        assert f"{queue.name}.dead" in found
    assert set(found) == {q.name for q in QUEUES} | {f"{q.name}.dead" for q in QUEUES}


def test_every_queue_has_its_consumers(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    """One on each host of the service that the catalog names; nobody takes dead letters."""
    for queue in api(host, "queues"):
        wanted = next((len(fleet.members(q.consumer)) for q in QUEUES if q.name == queue["name"]), 0)
        assert queue["consumers"] == wanted, queue["name"]


def test_exchanges_and_bindings(host: Host, spec: HostSpec) -> None:
    exchanges = {item["name"]: item for item in api(host, "exchanges")}
    for name in (*EXCHANGES, DEAD_LETTERS):
        assert exchanges[name]["durable"]
        assert exchanges[name]["type"] == "direct"
    bound = {(item["source"], item["routing_key"], item["destination"]) for item in api(host, "bindings")}
    for queue in QUEUES:
        assert (queue.exchange, queue.name, queue.name) in bound


def test_rejected_messages_go_to_the_dead_letters(host: Host, spec: HostSpec) -> None:
    for queue in api(host, "queues"):
        if queue["name"].endswith(".dead"):
            continue
        policy = queue.get("effective_policy_definition") or {}
        both = policy | queue.get("arguments", {})
        assert both.get("dead-letter-exchange", both.get("x-dead-letter-exchange")) == DEAD_LETTERS
        assert both.get("delivery-limit", both.get("x-delivery-limit")) == spec.settings.rabbitmq.delivery_limit


def test_users(host: Host, spec: HostSpec) -> None:
    users = told(host, "rabbitmqctl -q list_users --no-table-headers").splitlines()
    # After a rotation of its password a user is called by its other name (see deploy/model/secrets.py).
    found = {line.split("\t")[0].removesuffix("-b"): line.split("\t")[1] for line in users}
    assert set(found) == {"fleet", "monitoring", "operator", spec.settings.rabbitmq.user}
    assert found[spec.settings.rabbitmq.user] == "[]"


@pytest.mark.parametrize("login", ["guest:guest", "omegaup:omegaup"])
def test_default_passwords_are_refused(host: Host, spec: HostSpec, login: str) -> None:
    code = host.run(
        f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' -u {login} http://127.0.0.1:15672/api/overview"
    ).stdout
    assert code == "401"


def test_cookie_is_the_brokers_alone(host: Host, spec: HostSpec) -> None:
    cookie = host.file("/var/lib/rabbitmq/.erlang.cookie")
    assert (cookie.user, cookie.mode) == ("rabbitmq", 0o400)
    assert cookie.content_string.strip() not in host.check_output("ps -eo args")


def test_a_crash_would_leave_no_memory_behind(host: Host, spec: HostSpec) -> None:
    assert evaluate(host, 'os:getenv("ERL_CRASH_DUMP_SECONDS")').strip() == '"0"'
    assert not host.file(DUMP).exists


def test_no_alarm(host: Host, spec: HostSpec) -> None:
    assert api(host, "health/checks/local-alarms")["status"] == "ok"


def listening(host: Host) -> set[tuple[str, int]]:
    lines = host.check_output("ss -Hltn").splitlines()
    return {(line.split()[3].rpartition(":")[0], int(line.split()[3].rpartition(":")[2])) for line in lines}


def test_clients_of_other_hosts_come_by_tls_alone(host: Host, spec: HostSpec) -> None:
    service, found = spec.own("rabbitmq"), listening(host)
    for port in service.ports:
        if port.instead:
            assert (spec.address, port.number) in found
            assert {address for address, number in found if number == service.port(port.instead).number} <= {
                "127.0.0.1", PROXY_ADDRESS,
            }  # fmt: skip


def test_tls_is_what_the_broker_runs_with(host: Host, spec: HostSpec) -> None:
    if not spec.settings.rabbitmq.tls:
        pytest.skip("turned off")
    for application, name in (("rabbit", "ssl_options"), ("rabbitmq_management", "ssl_config")):
        options = evaluate(host, f"application:get_env({application}, {name})")
        for option in ("{verify,verify_peer}", "{fail_if_no_peer_cert,true}", "{crl_check,peer}"):
            assert option in options.replace("\n", "").replace(" ", ""), name


def test_members_talk_by_tls(host: Host, spec: HostSpec) -> None:
    """And their tools, or this question would not be answered."""
    if not spec.settings.rabbitmq.inter_node_tls:
        pytest.skip("turned off")
    assert "inet_tls" in evaluate(host, "init:get_argument(proto_dist)"), "see docs/certificates.md: a stop of all"
