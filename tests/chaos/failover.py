"""What the failover suites have in common: credentials, who leads, waiting until the fleet is itself again."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from deploy.converge import inventory as inventories
from deploy.model.catalog import SERVICES
from deploy.model.fleet import Fleet
from deploy.roles.rabbitmq_topology import API, dead
from deploy.roles.redis_cli import client
from lab import inside
from tests.chaos import load as writers
from tests.chaos import visitors
from tests.chaos.support import INVENTORY, SPEC, fleet, on

PORTS = {name: SERVICES["redis"].port(name).number for name in ("sessions", "cache")}
"""Of the two Redis."""
MENDED = 240.0
"""Seconds within which the fleet is itself again: a broker that hangs on its way back is started anew after 60."""


@cache
def the_fleet() -> Fleet:
    return inventories.load(inventories.folder(INVENTORY))[1]


@cache
def secret(name: str) -> str:
    return inventories.open_keys(inventories.folder(INVENTORY)).secret(name)


def eventually(what: str, true: Callable[[], bool], seconds: float = 60) -> float:
    """Wait for a condition, asked twice a second at most; seconds that it took. Fails with its name."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + seconds, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - begun


@contextlib.contextmanager
def load(host: str, prefix: str, *kinds: str, pause: float = writers.PAUSE) -> Iterator[writers.Load]:
    """Writers in the network of this host. pause: seconds from one write to the next of its kind."""
    pid = inside.pid(SPEC, host)
    assert pid is not None
    with writers.load(pid, secret, prefix, kinds or tuple(writers.KINDS), pause=pause) as running:
        yield running


@contextlib.contextmanager
def visiting(host: str, pause: float = visitors.PAUSE) -> Iterator[dict[str, visitors.Visits]]:
    """Visitors of a web host, in its own network. pause: seconds from an answer to the next visit of its kind."""
    pid = inside.pid(SPEC, host)
    assert pid is not None
    with visitors.visiting(pid, SPEC.address(host), pause) as visits:
        yield visits


def redis_cli(host: str, name: str) -> str:
    """redis-cli on a host as the deployment's user, for the cache, the sessions or the sentinel."""
    return client(the_fleet().host(host), name, 5)


def redis(host: str, port: int, *words: str) -> list[str]:
    """What it says there of whatever others dial at this port."""
    names = {one.number: one.name for service in ("redis", "sentinel") for one in SERVICES[service].ports}
    return on(host, f"{redis_cli(host, names[port])} {' '.join(words)}", check=False).splitlines()


def hosts_of(service: str) -> list[str]:
    """Its members' hosts, in the inventory's order."""
    return [host.name for host in the_fleet().members(service)]


def roles(port: int, hosts: tuple[str, ...] = ()) -> dict[str, str]:
    """Host -> what it says it is: master, slave, or nothing."""
    names = hosts or hosts_of("redis")
    return {name: next(iter(redis(name, port, "ROLE")), "") for name in names}


def primaries(port: int, hosts: tuple[str, ...] = ()) -> list[str]:
    """Who says that it leads: during a failover nobody, or two."""
    return [name for name, role in roles(port, hosts).items() if role == "master"]


def primary(port: int) -> str:
    """The one Redis primary. Fails unless there is exactly one."""
    found = primaries(port)
    assert len(found) == 1, f"primaries on {port}: {found}"
    return found[0]


def drained(host: str) -> list[str]:
    """All messages of the load's queue, taken out of it."""
    pid = inside.pid(SPEC, host)
    assert pid is not None
    return writers.drain(pid, secret)


def dead_letters(host: str) -> list[str]:
    """All messages that the load's worker could make nothing of, taken out of its queue of dead letters."""
    return taken_out(partial(on, host), dead(writers.QUEUE))


def arrived(host: str, promised: set[str]) -> set[str]:
    """All messages that lie in the load's queue or among its dead letters; waits for those that were promised.

    For the broker's own patience at most: a dead letter whose confirmation was lost is sent again after three minutes
    (dead_letter_worker_publisher_confirm_timeout), and lies in neither queue for whoever asks before that.
    """
    found: set[str] = set()

    def all_there() -> bool:
        found.update(dead_letters(host), drained("web1"))
        return promised <= found

    with contextlib.suppress(AssertionError):
        eventually("every message is there", all_there, 200)
    return found


def taken_out(run: Callable[[str], str], queue: str) -> list[str]:
    """All messages of a queue, by the management API of the host on which `run` runs a script."""
    order = '{"count": 2000, "ackmode": "ack_requeue_false", "encoding": "auto"}'
    found: list[str] = []
    while part := json.loads(run(f"{API} POST queues/%2F/{queue}/get <<'JSON'\n{order}\nJSON")):
        found += [message["payload"] for message in part]
    return found


def sql(host: str, statement: str, *, check: bool = True) -> list[str]:
    """A statement as root on a member."""
    return on(host, f"timeout 20 mariadb -NB omegaup -e {shlex.quote(statement)}", check=check).splitlines()


def writable() -> list[str]:
    """The database's members that take writes."""
    return [
        name
        for name in hosts_of("mysql")
        if on(name, "mariadb -NB -e 'SELECT @@read_only' || true", check=False) == "0\n"
    ]


def database() -> str:
    """The one member that takes writes. Fails unless there is exactly one."""
    found = writable()
    assert len(found) == 1, f"writable: {found}"
    return found[0]


def replica() -> str:
    """A member of the database that follows."""
    leader = database()
    return next(name for name in hosts_of("mysql") if name != leader)


def a_victim(service: str, turn: int) -> str:
    """A member's host, any but that of the database's primary, which only a person replaces (test_mysql_failover)."""
    leader = database()
    fit = [name for name in hosts_of(service) if name != leader]
    return fit[turn % len(fit)]


def fresh_table() -> None:
    """The load's table without a row of an earlier run, in which a row can be there twice, so that it would be seen."""
    sql(database(), f"CREATE OR REPLACE TABLE {writers.TABLE} (n INT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(80))")


def settled(seconds: float = MENDED, inventory: str | Path = INVENTORY) -> None:
    """Nothing differs from the inventory any more, without any apply."""
    _in_the_end("drift", seconds, inventory)


def applied(seconds: float = MENDED, inventory: str | Path = INVENTORY) -> None:
    """Apply succeeds in the end: it refuses while members do not see one another."""
    _in_the_end("apply", seconds, inventory)


def _in_the_end(command: str, seconds: float, inventory: str | Path) -> None:
    said: list[str] = []

    def well() -> bool:
        # 1: the members do not agree yet, or one does not answer.
        done = fleet(command, inventory=inventory)
        said[:] = [done.stdout + done.stderr]
        return done.returncode == 0

    try:
        eventually(f"fleet {command} succeeds", well, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {said[0][-1500:]}") from None
