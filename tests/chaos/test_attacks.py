"""Attacks from outside and from a stolen host: services stay up and do not grow, others are served as always.

From outside: a machine on the lab's network that is no host of the fleet, at the web hosts' port 80. From within: the
network of a web host, with certificates of its roles, at all that the catalog opens to it. Nobody but the lab's own
hosts is touched. What is measured is what visitors of a web host see meanwhile, and the memory of every unit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.model.catalog import PROXY_ADDRESS, RELEASES, SERVICES, SSL_DIR, Tls
from deploy.model.fleet import HostSpec
from deploy.roles import door
from deploy.roles.common import CA_FILE
from lab import inside
from tests import attacks
from tests.chaos import attackers, results
from tests.chaos.attackers import Place, codes, holding
from tests.chaos.failover import settled, the_fleet, visiting
from tests.chaos.stranger import Stranger, stranger
from tests.chaos.support import SPEC, UNBOUNDED, altered, fleet, on, shared
from tests.chaos.test_firewall import allowed
from tests.chaos.test_mutual_tls import PROBES, pair

WEB, OTHER_WEB = the_fleet().members("frontend")[0], the_fleet().members("frontend")[-1]
GROWTH = 128
"""MiB that a unit may be larger at its worst, and afterwards. Its processes' own memory, by what they share (PSS): the
lab's hosts have control groups without controllers, so systemd has no MemoryCurrent there. PHP may be as large as its
settings let it."""
BAR = 4.0
"""Seconds that a visitor waits at most while somebody attacks: as on a busy day, far from any time limit."""
WHILE = 20.0
"""Seconds that an attack is kept up."""


def enter(host: str) -> list[str]:
    """The beginning of a command that runs in the network of this host."""
    pid = inside.pid(SPEC, host)
    assert pid is not None
    return ["nsenter", "--target", str(pid), "--net"]


def tls(role: str) -> attackers.Tls:
    """A good certificate of a role, made for this test: the hosts' own keys stay where they are."""
    made = pair("right", role)
    assert made is not None
    return attackers.Tls(made.certificate, made.key)


@pytest.fixture(scope="module", autouse=True)
def unbounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No bound on how often visitors may submit: they come twenty times a second."""
    settled()
    copy = altered(tmp_path_factory.mktemp("attacks"), UNBOUNDED)
    shared(copy, "pki")
    assert fleet("apply", inventory=copy).returncode == 0
    yield copy
    assert fleet("apply").returncode == 0
    settled()


@pytest.fixture(scope="module")
def machine() -> Iterator[Stranger]:
    with stranger() as found:
        yield found


# What services are, before and after.


def units(host: HostSpec) -> list[str]:
    # A timer has neither a process nor memory.
    # Who sends journals is started anew whenever a connection ends.
    every = [unit for one in host.services if one.name != "log-sender" for unit in one.units_on(RELEASES["12"])]
    return [unit for unit in every if unit.endswith(".service")]


def running(host: HostSpec) -> dict[str, str]:
    """Unit -> its main process, and how often it was started again."""
    script = (
        f"for u in {' '.join(units(host))}; do "
        'echo "$u $(systemctl show -P MainPID $u) $(systemctl show -P NRestarts $u)"; done'
    )
    return dict(line.split(" ", 1) for line in on(host.name, script).splitlines())


def memory(host: HostSpec) -> dict[str, float]:
    """Unit -> MiB of all its processes."""
    script = f"""\
for u in {" ".join(units(host))}; do
  sum=0
  for p in $(grep -ls "/$u\\($\\|/\\)" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
    n=$(awk '/^Pss:/ {{ print $2 }}' /proc/$p/smaps_rollup 2>/dev/null | head -n 1)
    sum=$((sum + ${{n:-0}}))
  done
  echo "$u $sum"
done
"""
    return {unit: int(kib) / 1024 for unit, kib in (line.split() for line in on(host.name, script).splitlines())}


def everywhere(ask: object, hosts: Sequence[HostSpec]) -> dict[tuple[str, str], object]:
    """(host, unit) -> what was asked, of all these hosts side by side."""
    assert callable(ask)
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = list(pool.map(ask, hosts))
    return {(host.name, unit): said for host, one in zip(hosts, answers, strict=True) for unit, said in one.items()}


def grown(before: dict[tuple[str, str], object], after: dict[tuple[str, str], object]) -> dict[tuple[str, str], float]:
    return {key: float(str(after[key])) - float(str(before[key])) for key in before if key in after}


@contextmanager
def unharmed(what: str, visited: HostSpec, *attacked: HostSpec) -> Iterator[None]:
    """What happens in the block harms nobody: no unit of the attacked hosts ends or grows, visitors of a web host get
    what they came for, in time.
    """
    hosts = [*attacked, *([visited] if visited not in attacked else [])]
    before, weights = everywhere(running, hosts), everywhere(memory, hosts)
    assert all(str(one).split()[0] != "0" for one in before.values()), before
    worst: dict[tuple[str, str], float] = {}
    over = threading.Event()

    def weigh() -> None:
        while not over.wait(3):
            for key, more in grown(weights, everywhere(memory, hosts)).items():
                worst[key] = max(worst.get(key, 0.0), more)

    weighing = threading.Thread(target=weigh)
    with visiting(visited.name) as visits:
        time.sleep(2)
        weighing.start()
        try:
            yield
        finally:
            over.set()
            weighing.join()
        time.sleep(2)
    left = grown(weights, everywhere(memory, hosts))
    results.note(
        f"attack: {what}", slowest_visit_seconds=max(one.slowest for one in visits.values()),
        failed_visits=sum(len(one.failed) for one in visits.values()),
        grown_by_mib=max([0.0, *worst.values()]), grown_by_mib_afterwards=max(left.values()),
    )  # fmt: skip
    assert everywhere(running, hosts) == before, "something ended"
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}
    assert {kind: one.slowest for kind, one in visits.items() if one.slowest > BAR} == {}
    assert all(one.good > 10 for one in visits.values())
    assert {key: more for key, more in [*worst.items(), *left.items()] if more > bound(key)} == {}


def bound(key: tuple[str, str]) -> float:
    """MiB that this unit may grow by."""
    frontend = the_fleet().host(key[0]).settings.frontend
    children = frontend.fpm_max_children * frontend.fpm_child_memory / 2**20
    return max(GROWTH, children) if key[1].startswith("php") else GROWTH


def port(service: str, name: str) -> int:
    return SERVICES[service].port(name).number


def test_a_growing_unit_would_be_seen() -> None:
    """The twin of what is weighed: a process that takes memory, in a unit of its own."""
    script = (
        "systemd-run --quiet --unit=chaos-grows.service sh -c "
        "'x=$(head -c 150000000 /dev/zero | tr \"\\\\0\" a); sleep 30'\nsleep 8"
    )
    on(WEB.name, script)
    try:
        found = on(
            WEB.name,
            "for p in $(grep -ls '/chaos-grows.service' /proc/[0-9]*/cgroup | cut -d/ -f3); do "
            "awk '/^Pss:/ { print $2 }' /proc/$p/smaps_rollup; done",
        )
        assert sum(map(int, found.split())) / 1024 > GROWTH
    finally:
        on(WEB.name, "systemctl stop chaos-grows.service || true")


# From outside, at the front.


FRONT: Place = (WEB.address, port("frontend", "http"))


def test_what_is_too_large_is_refused_at_the_front(machine: Stranger) -> None:
    body = {"a body": attacks.request("POST /submit HTTP/1.1", f"Content-Length: {WEB.settings.frontend.body_max + 1}")}
    with unharmed("oversize headers and bodies", WEB):
        answers = attackers.sent(machine.enter, FRONT, attacks.oversize_headers("/") | body)
    assert codes(answers.pop("a body")) == [413]
    for name, answer in answers.items():
        assert codes(answer) in ([400], [414], [431], []), (name, answer[:100])


def test_no_request_hides_in_another_at_the_front(machine: Stranger) -> None:
    twin = {"twin": attacks.request("GET /health/live HTTP/1.1") + attacks.INNER}
    answers = attackers.sent(machine.enter, FRONT, twin)
    assert codes(answers["twin"]) == [200, 404], "the probe would see one"
    with unharmed("request smuggling", WEB):
        answers = attackers.sent(machine.enter, FRONT, attacks.smuggling("POST", "/submit"))
    for name, answer in answers.items():
        if name not in attacks.LENIENT:
            assert len(codes(answer)) <= 1, (name, answer[:200])
            # 501: a coding that it does not know.
            assert not any(500 <= code < 600 and code != 501 for code in codes(answer)), (name, answer[:200])


def test_what_is_no_json_is_the_senders_fault_at_the_front(machine: Stranger) -> None:
    requests = {
        f"{path} {name}": attacks.request(
            f"POST {path} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}",
            "Connection: close", body=body,
        )
        for path in ("/submit", "/login", "/certificates")
        for name, body in attacks.malformed_json().items()
    }  # fmt: skip
    answers = attackers.sent(machine.enter, FRONT, requests, patience=15)
    assert {
        name: codes(one) for name, one in answers.items() if not all(400 <= code < 500 for code in codes(one))
    } == {}
    assert all(len(codes(one)) == 1 for one in answers.values())


def test_no_path_of_the_front_leads_out(machine: Stranger) -> None:
    paths = (
        "/../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/.git/config",
        "/index.php/../config.php", "/src/App.php", "/..%c0%af..%c0%afetc/passwd", "//etc/passwd", "/%00",
        "/a%0d%0aX: 1",
        "/fleet/build", "/fleet/fpm", "/fleet/nginx", "/metrics", "/www/../../config.php", "http://127.0.0.1/fleet/build",
    )  # fmt: skip
    requests = {path: attacks.request(f"GET {path} HTTP/1.1", "Connection: close") for path in paths}
    answers = attackers.sent(machine.enter, FRONT, requests)
    for path, answer in answers.items():
        assert codes(answer) in ([400], [403], [404]), (path, answer[:200])
        assert b"root:" not in answer


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "say", "drip"),
    [
        ("heads byte by byte", attacks.request("GET / HTTP/1.1", "X: " + "a" * 500), 3.0),
        ("silence", b"", 0.0),
        ("bodies byte by byte", attacks.request("POST /submit HTTP/1.1", "Content-Length: 100000") + b"a" * 500, 0.0),
        ("streams of events", attacks.request("GET /events/?contest=chaos HTTP/1.1"), 0.0),
    ],
)  # fmt: skip
def test_slow_clients(machine: Stranger, name: str, say: bytes, drip: float) -> None:
    """More of them than one address may have in hand."""
    count = WEB.settings.frontend.of_one_address + 100
    broadcaster = the_fleet().members("broadcaster")[0]
    with (
        unharmed(f"slow clients, {name}", WEB, broadcaster),
        holding(machine.enter, FRONT, count, say=say, drip=drip) as held,
    ):
        time.sleep(WHILE)
    assert held.counts["opened"] >= count * 0.9, held.counts


@pytest.mark.thorough
def test_noise_at_the_front(machine: Stranger) -> None:
    with unharmed("noise at the front", WEB):
        assert attackers.noisy(machine.enter, [FRONT], seed=31, count=300) == {FRONT}


# From a stolen host, at what the catalog opens to it.


def place(service: str, name: str) -> Place:
    return the_fleet().members(service)[0].address, port(service, name)


BACKENDS = {
    # Where a role may send a body: (service, port) -> (role, method, path).
    ("gitserver", "https"): ("frontend", "PUT", "/problem/chaos-attack/settings"),
    ("grader", "https"): ("frontend", "POST", "/submission/new"),
    ("broadcaster", "https"): ("grader", "POST", "/broadcast/"),
    ("grader", "runners"): ("runner", "POST", "/run/register"),
}


def caller(role: str) -> HostSpec:
    return the_fleet().members(role)[0]


@pytest.mark.thorough
@pytest.mark.parametrize("where", BACKENDS, ids=" ".join)
def test_what_is_no_json_is_the_senders_fault(where: tuple[str, str]) -> None:
    role, method, path = BACKENDS[where]
    requests = {
        name: attacks.request(
            f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close", body=body
        )
        for name, body in attacks.malformed_json().items()
    }
    answers = attackers.sent(enter(caller(role).name), place(*where), requests, tls(role), patience=10)
    assert {name: one[:200] for name, one in answers.items() if not 400 <= (codes(one) or [0])[0] < 500} == {}


@pytest.mark.thorough
@pytest.mark.parametrize("where", BACKENDS, ids=" ".join)
def test_no_request_hides_in_another(where: tuple[str, str]) -> None:
    role, method, path = BACKENDS[where]
    network, at = enter(caller(role).name), place(*where)
    twin = {"twin": attacks.request("GET /health HTTP/1.1") + attacks.INNER}
    assert codes(attackers.sent(network, at, twin, tls(role))["twin"]) == [200, 404], "the probe would see one"
    for name, answer in attackers.sent(network, at, attacks.smuggling(method, path), tls(role)).items():
        # A second line is the end of a connection that made no sense.
        assert codes(answer)[:1] in ([400], []), (name, answer[:200])
        assert not {200, 201, 404} & set(codes(answer)), (name, answer[:200])


@pytest.mark.thorough
@pytest.mark.parametrize("where", BACKENDS, ids=" ".join)
def test_what_is_too_large_is_refused(where: tuple[str, str]) -> None:
    role, method, path = BACKENDS[where]
    requests = attacks.oversize_headers("/health")
    size = 64 << 20
    requests["a body"] = attacks.request(f"{method} {path} HTTP/1.1", f"Content-Length: {size}") + b"a" * (12 << 20)
    with unharmed(f"oversize at {' '.join(where)}", OTHER_WEB, the_fleet().members(where[0])[0]):
        answers = attackers.sent(enter(caller(role).name), place(*where), requests, tls(role), patience=10)
    for name, answer in answers.items():
        assert all(400 <= code < 500 for code in codes(answer)), (name, answer[:200])


@pytest.mark.thorough
def test_no_request_hides_in_another_at_the_doors() -> None:
    """Between HAProxy and what it leads to."""
    monitor = caller("monitoring")
    _, path = PROBES["door", "https"]
    for host in (monitor, WEB):
        at = (host.address, port("door", "https"))
        for method, target in (("GET", path), ("POST", f"{door.ALERTS}/api/v2/alerts")):
            answers = attackers.sent(enter(monitor.name), at, attacks.smuggling(method, target), tls("monitoring"), 3)
            for name, answer in answers.items():
                assert codes(answer).count(200) <= 1, (host.name, name, answer[:200])
                assert not any(code in {500, 502, 504} for code in codes(answer)[1:]), (host.name, name, answer[:200])


@pytest.mark.thorough
def test_noise_at_every_port_that_a_web_host_reaches() -> None:
    """AMQP, Redis, the database, the role's port, TLS: straight, and through the host's own HAProxy."""
    straight = [(host.address, number) for host in the_fleet().hosts if host != WEB
                for number in sorted(allowed(WEB, host))]  # fmt: skip
    through = [
        # By TLS between hosts alone, and so under the plain port's number here.
        (PROXY_ADDRESS, service.port(one.instead or one.name).number)
        for service in SERVICES.values()
        if service.proxied
        for one in service.ports
        if "frontend" in one.clients
    ]
    members = {
        host.name: host for name in ("redis", "rabbitmq", "mysql", "grader") for host in the_fleet().members(name)
    }
    with unharmed("noise at every port", OTHER_WEB, *members.values()):
        places = [*straight, *through]
        assert attackers.noisy(enter(WEB.name), places, seed=41, count=60) == set(places)
    # The host itself is not shut out for it.
    with unharmed("after the noise", WEB):
        time.sleep(3)


@pytest.mark.thorough
@pytest.mark.parametrize("where", [("gitserver", "https"), ("broadcaster", "https"), ("grader", "https")], ids=" ".join)
def test_thousands_of_half_open_connections(where: tuple[str, str]) -> None:
    """TLS that was begun and not gone on with: a web host is stolen, the other is served as always."""
    backend = the_fleet().members(where[0])[0]
    hello = bytes.fromhex("16030100c8010000c40303") + b"\0" * 20
    with (
        unharmed(f"half-open TLS at {' '.join(where)}", OTHER_WEB, backend),
        holding(enter(WEB.name), place(*where), 1500) as silent,
        holding(enter(WEB.name), place(*where), 1500, say=hello) as begun,
    ):
        time.sleep(WHILE)
    assert silent.counts["opened"] + begun.counts["opened"] > 2000, (silent.counts, begun.counts)


@pytest.mark.thorough
def test_half_open_connections_do_not_blind_monitoring(unbounded: Path) -> None:
    """At the log store, to which every host may connect, and which shares its bound with the host's door."""
    keeper = next(host for host in the_fleet().members("log-store") if port("log-store", "https") in allowed(WEB, host))
    address = (keeper.address, port("log-store", "https"))
    with (
        unharmed("half-open TLS at the log store", OTHER_WEB, keeper),
        holding(enter(WEB.name), address, 1500),
    ):
        for _ in range(5):
            time.sleep(2)
            pair_ = f"--cacert {CA_FILE} --cert {SSL_DIR}/monitoring.crt --key {SSL_DIR}/monitoring.key"
            url = f"https://{keeper.name}:{port('door', 'https')}{PROBES['door', 'https'][1]}"
            said = on(keeper.name, f"curl -s -m 5 --noproxy '*' -o /dev/null -w '%{{http_code}} %{{time_total}}' "
                                   f"{pair_} {url} || true")  # fmt: skip
            code, seconds = said.split()
            assert code == "200"
            assert float(seconds) < BAR
    # The log store is reached again, and so nothing differs.
    settled(inventory=unbounded)


@pytest.mark.thorough
def test_connections_that_ask_for_nothing_end() -> None:
    """With a good certificate: after the handshake nothing, or half a head."""
    where = ("gitserver", "https")
    for say in (b"", b"GET /health HTTP/1.1\r\nX-Slow: "):
        with (
            unharmed("connections that ask for nothing", OTHER_WEB, the_fleet().members("gitserver")[0]),
            holding(enter(WEB.name), place(*where), 200, tls=tls("frontend"), say=say) as held,
        ):
            time.sleep(45)
        assert held.counts["ended"] > 0, held.counts


def test_every_tls_port_of_http_is_attacked() -> None:
    """A backend that takes bodies is in the table above: what the catalog gets has to be."""
    known = set(BACKENDS) | {("runner", "https"), ("mysql", "seed"), ("door", "https"), ("log-store", "https")}
    every = {
        (service.name, one.name)
        for service in the_fleet().services()
        for one in service.ports
        if one.tls is Tls.MUTUAL and (service.name, one.name) in PROBES
    }
    assert every <= known
