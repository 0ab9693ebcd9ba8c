"""The broker's TLS turned on and off: clients move member by member, members all at once, and no mixture of members."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.model.catalog import SERVICES
from deploy.roles.rabbitmq_ask import ENV
from deploy.roles.rabbitmq_tls import LISTS
from lab import inside
from tests.chaos import results
from tests.chaos.failover import drained, eventually, load, settled
from tests.chaos.rolling import paid, roll
from tests.chaos.support import COUNTED, SPEC, altered, apply, drift, fleet, footprint, on
from tests.chaos.test_rabbitmq_cluster import BAR, MEMBERS, UNIT, all_running, judge, partitions

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("begun_well")]

PORT = {port.name: port.number for port in SERVICES["rabbitmq"].ports}
QUICK = COUNTED + 'roll = {"canary_seconds": 1, "read_interval": 0.3}'
OURS = "rabbitmq = globals().get('rabbitmq', {{}}) | {}"
PAIR = "--cert {0}/{1}.crt --key {0}/{1}.key --cacert {0}/ca.crt"


@pytest.fixture(autouse=True)
def the_queue_is_the_loads(tmp_path: Path) -> Iterator[None]:
    """Its worker is away meanwhile. In the end brokers are as the inventory says, also where a test has failed."""
    on("app1", "systemctl stop omegaup-worker@analytics")
    drained("web1")
    yield
    on("app1", "systemctl start omegaup-worker@analytics")
    if drift():
        paid(tmp_path)
        apply()
    settled()


def outside(host: str) -> set[int]:
    """The broker's ports that others can find something at."""
    found = set()
    for line in on(host, "ss -Hltn").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not address.startswith("127.") and int(port) in PORT.values():
            found.add(int(port))
    return found


def members_talk() -> set[str]:
    """How, by their own word."""
    said = [on(host, "timeout 30 rabbitmqctl -q eval 'init:get_argument(proto_dist).'") for host in MEMBERS]
    return {"tls" if "inet_tls" in words else "plain" for words in said}


def done(command: str, inventory: str | Path) -> None:
    if command == "roll":
        code, report = roll(inventory)
        assert code == 0, report
        return
    said = fleet(command, inventory=inventory)
    assert said.returncode == 0, said.stdout + said.stderr


def test_clients_move_member_by_member(tmp_path: Path) -> None:
    """From TLS to the clear and to TLS again, as a fleet of an earlier version does: apply, roll, apply."""
    plain = altered(tmp_path / "off", f"{QUICK}\n{OURS.format({'tls': False})}")
    back = altered(tmp_path / "on", QUICK)
    wanted = {
        plain: ({PORT["amqp"], PORT["management"]}, {PORT["amqps"], PORT["management-tls"]}),
        back: ({PORT["amqps"], PORT["management-tls"]}, {PORT["amqp"], PORT["management"]}),
    }
    with load("web1", "tls", "messages") as publisher:
        begun = time.time()
        for inventory, (there, gone) in wanted.items():
            # Nothing is restarted by the first; the last takes the way of before away.
            done("apply", inventory)
            assert fleet("plan", inventory=inventory).returncode == 2, "restarts are owed"
            done("roll", inventory)
            done("apply", inventory)
            assert fleet("plan", inventory=inventory).returncode == 0
            for host in MEMBERS:
                assert there <= outside(host)
                assert not gone & outside(host)
                rules = on(host, "nft list chain inet fleet input")
                assert all(f"dport {port} accept" in rules for port in there)
                assert not any(f"dport {port} accept" in rules for port in gone)
            assert "-before" not in on("web1", "cat /etc/haproxy/haproxy.cfg")
        until = time.time()
    judge("TLS of clients turned off and on again, by roll", publisher.end()["messages"], begun, until)


def stopped_together() -> None:
    for host in MEMBERS:
        on(host, f"systemctl stop {UNIT}")


def test_members_change_when_all_were_stopped(tmp_path: Path) -> None:
    plain = altered(tmp_path / "off", f"{QUICK}\n{OURS.format({'inter_node_tls': False})}")
    usual = altered(tmp_path / "on", QUICK)
    with load("web1", "stop", "messages") as publisher:
        # While one of them runs, they go on as they are: nothing is done, nothing is owed.
        done("apply", plain)
        assert fleet("plan", inventory=plain).returncode == 0
        assert members_talk() == {"tls"}
        for inventory, way in ((plain, "plain"), (usual, "tls")):
            begun = time.time()
            stopped_together()
            done("apply", inventory)
            eventually("all run", all_running, 180)
            results.note(f"RabbitMQ: members change to {way}, all stopped", seconds_without=time.time() - begun)
            assert members_talk() == {way}
            assert partitions() == set()
        begun = time.time()
        time.sleep(BAR)
        until = time.time()
    judge("members change how they talk, after that", publisher.end()["messages"], begun, until)


def test_one_that_talks_otherwise_is_refused_and_nothing_changed() -> None:
    """As a member comes back that was away when all others were changed."""
    other = MEMBERS[2]
    on(other, f"systemctl stop {UNIT}\nsed -i /ERL_ARGS/d {ENV}\nsystemctl start --no-block {UNIT}")
    try:
        eventually("it has begun", lambda: plain_ones(other) == 1 and PORT["distribution"] in outside(other), 90)
        before = {name: footprint(name) for name in MEMBERS[:2]}
        refused = fleet("apply")
        assert refused.returncode == 1
        assert f"in the clear ({other})" in refused.stdout + refused.stderr
        assert f"on {other}: systemctl stop {UNIT}" in refused.stdout + refused.stderr
        assert {name: footprint(name) for name in MEMBERS[:2]} == before
    finally:
        # As the message says.
        on(other, f"systemctl stop {UNIT}")
        assert fleet("apply").returncode == 0
    eventually("all run", all_running, 120)
    assert members_talk() == {"tls"}


def plain_ones(host: str) -> int:
    """How many brokers run there without the words of TLS."""
    return len(on(host, "pgrep -u rabbitmq -a beam.smp | grep 'rabbit boot' | grep -v inet_tls || true").splitlines())


def code(host: str, target: str, options: str = "") -> str:
    """What the management API of a member answers to a host; 000: nothing."""
    url = f"https://{target}:{PORT['management-tls']}/api/overview"
    return on(host, f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' {options} {url} || true").strip()


def test_a_certificate_is_asked_for_by_every_member() -> None:
    folder = "/etc/omegaup/ssl"
    for member in MEMBERS:
        assert code("web1", member, f"--cacert {folder}/ca.crt") == "000"
        # Let in, and then asked who it is.
        assert code("web1", member, PAIR.format(folder, "proxy")) == "401"
        for name in ("amqps", "distribution"):
            client = "web1" if name == "amqps" else next(host for host in MEMBERS if host != member)
            ask = f"timeout 10 openssl s_client -tls1_2 -connect {member}:{PORT[name]} -CAfile {folder}/ca.crt"
            pair = "proxy" if name == "amqps" else "rabbitmq"
            good = f"-cert {folder}/{pair}.crt -key {folder}/{pair}.key -verify_return_error -verify_hostname {member}"
            assert on(client, f"{ask} {good} </dev/null >/dev/null 2>&1 && echo in || echo out") == "in\n", name
            assert on(client, f"{ask} </dev/null >/dev/null 2>&1 && echo in || echo out") == "out\n", name


def test_nothing_in_the_clear_is_found_from_another_host() -> None:
    for member in MEMBERS:
        for name in ("amqp", "management", "prometheus"):
            script = f"timeout 3 bash -c ': <>/dev/tcp/{member}/{PORT[name]}' 2>/dev/null && echo open || echo shut"
            assert on("web1", script) == "shut\n", name


SNIFF = """
import select, socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 0))
seen = [0, 0]
while not select.select([sys.stdin], [], [], 0)[0]:
    if select.select([wire], [], [], 0.2)[0]:
        packet = wire.recv(65536)
        seen[0] += 1
        seen[1] += sys.argv[2].encode() in packet
print(*seen)
"""


@contextmanager
def sniffing(host: str, device: str, word: str) -> Iterator[list[int]]:
    """In the end: packets that passed at a device of a host, and those of them with this word."""
    pid = inside.pid(SPEC, host)
    assert pid is not None
    process = subprocess.Popen(
        ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", SNIFF, device, word], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    found: list[int] = []
    try:
        yield found
        found += map(int, process.communicate("\n", timeout=30)[0].split())
    finally:
        process.kill()
        process.wait()


def test_what_passes_between_hosts_cannot_be_read() -> None:
    """A word in each message: seen on the loopback of the host that publishes it, and on no wire."""
    word = "theword"
    with ExitStack() as stack:
        places = [("web1", "lo"), ("web1", "host0"), *((member, "host0") for member in MEMBERS)]
        seen = {place: stack.enter_context(sniffing(*place, word)) for place in places}
        with load("web1", word, "messages"):
            time.sleep(5)
    assert seen.pop(places[0])[1] > 0, "the sniffing itself works"
    for place, (packets, readable) in seen.items():
        assert packets > 50, place
        assert readable == 0, place


def test_the_lists_are_there_for_every_authority() -> None:
    for member in MEMBERS:
        lists = on(member, f"cat {LISTS}/*.r*")
        every = on(member, "cat /etc/omegaup/ssl/ca.crl")
        assert sorted(lists.splitlines()) == sorted(every.splitlines())
