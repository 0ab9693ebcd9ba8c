"""Secrets are rotated under load, and nobody notices: each kind, killed at every step, turned around, stopped.

What servers take is read from the running servers, what clients come with from what they do: visitors come with a new
connection each time, the writers of the ledger keep theirs.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.converge import desired
from deploy.converge.engine import Keys
from deploy.converge.inventory import folder, open_keys
from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context, Live
from deploy.model.secrets import Change, account
from deploy.procedures.roll.journal import path_of
from deploy.roles import mysql_access, rabbitmq_topology, redis, sentinel
from deploy.trust.masking import Masker
from lab import inside
from tests.chaos import load as writers
from tests.chaos import results
from tests.chaos.failover import (
    applied,
    database,
    eventually,
    fresh_table,
    secret,
    settled,
    sql,
    the_fleet,
    visiting,
)
from tests.chaos.failover import redis as ask_redis
from tests.chaos.load import TABLE, Ledger
from tests.chaos.promises import missing
from tests.chaos.rolling import killed_at_a_new_step, none_left, paid, roll, started
from tests.chaos.support import COUNTED, INVENTORY, REPEATS, ROOT, SPEC, UNBOUNDED, altered, fleet, on, shared
from tests.chaos.test_secrets import sampled
from tests.chaos.visitors import Visits

pytestmark = pytest.mark.thorough

SPECS = desired.secret_specs()
ALL = sorted(name for name, spec in SPECS.items() if spec.change is Change.PHASES)
COOKIE = "rabbitmq/cookie"
CHANGES = (
    UNBOUNDED
    + COUNTED
    + """
roll = {"canary_seconds": 2, "read_interval": 0.3}
# What was connected before a reload of the proxy is not cut while the ledger is written.
proxy = {"hard_stop_after": 900}
"""
)
BAR = 5.0
"""Seconds: the longest that a write may wait."""
DATA = frozenset({"redis-cache", "redis-sessions", "redis-sentinel", "rabbitmq-server", "mariadb"})
"""Units that no rotation restarts."""

PLACE: dict[str, Path] = {}
"""The inventory of this module: with the fleet's own vault, and no bound on how often visitors may come."""


def secrets(command: str, *rest: str, timeout: float = 2400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "fleet"), "secrets", command, str(PLACE["inventory"]), *rest], cwd=ROOT, text=True,
        capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def rotated(*words: str) -> dict[str, Any]:
    done = secrets("rotate", "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def keys() -> Keys:
    """As they are now."""
    return open_keys(folder(INVENTORY))


def phases() -> dict[str, str]:
    return {name: phase.value for name, phase in keys().vault.changing().items()}


def values(*names: str) -> dict[str, str]:
    now = keys()
    return {name: now.secret(name) for name in names or ALL}


@pytest.fixture(scope="module", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    settled()
    place = tmp_path_factory.mktemp("secrets")
    copy = altered(place, CHANGES)
    shared(copy, "secrets.age", "secrets.recipients")
    PLACE["inventory"] = copy
    assert fleet("apply", inventory=copy).returncode == 0
    assert roll(copy)[0] == 0
    yield
    _ended()
    names = [name for name in ALL if name.startswith("rabbitmq/") and turn(name) % 2]
    if names:
        # The users are called as they were again, for the suites after this one.
        rotated(*names)
    secret.cache_clear()
    paid(place)
    settled()


def turn(name: str) -> int:
    now = keys()
    return next(one.turn for one in now.vault.accepted(name) if one.value == now.secret(name))


def _ended() -> None:
    """Whatever a failed test has left."""
    none_left(PLACE["inventory"])
    if phases():
        rotated()


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    """The ledger's queue has no consumer, and its table no row of an earlier test."""
    on("app1", "systemctl stop omegaup-worker@analytics")
    drained()
    fresh_table()
    yield
    _ended()
    # Waived here, so that it starts with what it should come with by now.
    on("app1", "systemctl start omegaup-worker@analytics")
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")


# -- load ---------------------------------------------------------------------------------------------------------


def app_user() -> str:
    return account(the_fleet().hosts[0].settings.rabbitmq.user, turn("rabbitmq/app"))


def web1() -> int:
    pid = inside.pid(SPEC, "web1")
    assert pid is not None
    return pid


def drained() -> list[str]:
    return writers.drain(web1(), keys().secret, app_user())


@contextmanager
def loaded(prefix: str) -> Iterator[writers.Load]:
    """The ledger's writers, with what clients come with at this moment."""
    with writers.load(web1(), keys().secret, prefix, user=app_user()) as running:
        yield running


def unnoticed(what: str, visits: dict[str, Visits], *ledgers: dict[str, Ledger]) -> None:
    """No visit failed, no write was refused, none waited for long, and all that was promised is there."""
    for kind, one in visits.items():
        results.note(f"{what}: visits, {kind}", failed=len(one.failed), slowest_seconds=one.slowest)
    for ledger in ledgers:
        for kind, mine in ledger.items():
            results.note(f"{what}: {kind}", seconds_without_writes=mine.gap(), refused=len(mine.refusals))
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}
    assert all(one.good > 10 for one in visits.values())
    messages, rows = set(drained()), set(sql(database(), f"SELECT id FROM {TABLE}"))
    for ledger in ledgers:
        assert {kind: mine.refusals[:3] for kind, mine in ledger.items() if mine.refusals} == {}
        assert {kind: mine.gap() for kind, mine in ledger.items() if mine.gap() > BAR} == {}
        assert missing(set(ledger["sessions"].kept), "sessions") == set()
        assert ledger["messages"].ids() - messages == set()
        assert ledger["rows"].ids() - rows == set()


# -- what servers take --------------------------------------------------------------------------------------------


def context(host: str, now: Keys) -> Context:
    """What the vault wants of a host."""
    of = the_fleet()
    return desired.context(of, of.host(host), Live.first_boot(of), "", now.secret, accepted=now.vault.accepted)


def hashes(text: str) -> set[str]:
    return set(re.findall(r"#([0-9a-f]{64})", text))


def servers_take_what_the_vault_says(now: Keys | None = None) -> None:
    """Of every user of every server: the running server's word against the vault's, as it is or as it was then."""
    of, now = the_fleet(), now or keys()
    for host in of.members("redis"):
        for instance in redis.INSTANCES:
            port = SERVICES["redis"].port(instance).number
            same_users(ask_redis(host.name, port, "ACL LIST"), redis.acl(context(host.name, now), instance))
    for host in of.members("sentinel"):
        port = SERVICES["sentinel"].port("sentinel").number
        same_users(ask_redis(host.name, port, "ACL LIST"), sentinel.acl(context(host.name, now)))
    for host in of.members("mysql"):
        ctx = context(host.name, now)
        wanted = {(one.user, one.address): mysql_access.kept(ctx, one.secret) for one in mysql_access.logins(ctx)}

        def has_them(name: str = host.name, wanted: dict[tuple[str, str], list[str]] = wanted) -> bool:
            return {who: kept for who, kept in accounts(name).items() if who in wanted} == wanted

        # A replica may be a moment behind.
        eventually(f"accounts on {host.name} are as the vault says", has_them, 20)
    host = of.members("rabbitmq")[0]
    users = on(host.name, "rabbitmqctl -q list_users --no-table-headers").splitlines()
    assert {line.split("\t")[0] for line in users} == set(rabbitmq_topology.users(context(host.name, now)))


def same_users(listed: list[str], rules: dict[str, str]) -> None:
    found = {line.split()[1]: hashes(line) for line in listed}
    assert found == {name: hashes(rule) for name, rule in rules.items()}


def accounts(host: str) -> dict[tuple[str, str], list[str]]:
    """(user, address) -> what the server keeps of the passwords that it takes."""
    found = {}
    for line in sql(host, "SELECT User, Host, Priv FROM mysql.global_priv"):
        user, address, text = line.split("\t")
        document = json.loads(text)
        ways = [one or document for one in document.get("auth_or", [{}])]
        native = [one.get("authentication_string", "") for one in ways if one.get("plugin") == "mysql_native_password"]
        found[user, address] = native
    return found


# -- tests --------------------------------------------------------------------------------------------------------


def test_status_asks_nobody_and_shows_no_value() -> None:
    done = secrets("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {one["name"] for one in json.loads(done.stdout)["secrets"]} >= set(ALL)
    assert not any(value in done.stdout + secrets("status").stdout for value in values().values())
    servers_take_what_the_vault_says()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) for name in ("redis/app", "mysql/app")] + ["rabbitmq/app"]
)
def test_one_secret_is_rotated_and_nobody_notices(name: str) -> None:
    before, running = values(), started()
    with visiting("web1") as visits:
        with loaded(f"one-{name.replace('/', '-')}") as old:
            rotated(name, "--stop-after", "accept")
            servers_take_what_the_vault_says()
            assert phases() == {name: "use"}
            both = keys()
            rotated("--stop-after", "use")
            # The vault says what comes next; until then a client that has not heard of it is let in.
            servers_take_what_the_vault_says(both)
            assert phases() == {name: "drop"}
            first = old.end()
        with loaded(f"two-{name.replace('/', '-')}") as new:
            rotated()
            time.sleep(3)
            second = new.end()
    unnoticed(f"{name} is rotated", visits, first, second)
    assert {one for one in ALL if values()[one] != before[one]} == {name}
    same_data_services(running)
    well()


def same_data_services(before: dict[tuple[str, str], str]) -> None:
    after = started()
    assert {who for who in after if after[who] != before[who] and who[1] in DATA} == set()


def well() -> None:
    """Nothing is under way, servers take one value each, and a second apply has nothing to do."""
    assert phases() == {}
    servers_take_what_the_vault_says()
    assert fleet("plan", inventory=PLACE["inventory"]).returncode == 0
    assert fleet("status", "--wait", "60", inventory=PLACE["inventory"]).returncode == 0


@pytest.mark.parametrize("number", range(REPEATS))
def test_all_secrets_are_rotated_and_nobody_notices(number: int) -> None:
    """And none of them, neither earlier nor later, is seen in a command line or in what the command says."""
    before, running = values(), started()
    with visiting("web1") as visits, sampled() as seen:
        begun = time.monotonic()
        said = []
        with loaded(f"all-{number}-old") as old:
            said.append(secrets("rotate", "--all", "--stop-after", "accept"))
            assert said[-1].returncode == 0, said[-1].stdout + said[-1].stderr
            servers_take_what_the_vault_says()
            both = keys()
            said.append(secrets("rotate", "--stop-after", "use"))
            assert said[-1].returncode == 0, said[-1].stdout + said[-1].stderr
            servers_take_what_the_vault_says(both)
            first = old.end()
        with loaded(f"all-{number}-new") as new:
            said.append(secrets("rotate"))
            assert said[-1].returncode == 0, said[-1].stdout + said[-1].stderr
            time.sleep(3)
            second = new.end()
        results.note("all secrets are rotated", seconds=time.monotonic() - begun)
    unnoticed("all secrets are rotated", visits, first, second)
    after = values()
    assert [name for name in ALL if after[name] == before[name]] == []
    same_data_services(running)
    text = "\n".join([*(done.stdout + done.stderr for done in said), *sorted(seen)])
    masked = Masker([*before.values(), *after.values()])
    assert [masked(line) for line in text.splitlines() if masked(line) != line] == []
    well()


def killed(seconds: float, *words: str, phase: str = "") -> int | None:
    """Begin `fleet secrets rotate ...` and kill it (-9) after so many seconds; its exit code, if it had ended. phase:
    so long after this one is written down for all that changes.
    """
    process = subprocess.Popen(
        [str(ROOT / "fleet"), "secrets", "rotate", str(PLACE["inventory"]), *words], cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    if phase:
        eventually(f"the rotation is in phase {phase}", lambda: set(phases().values()) == {phase})
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def asked(*names: str) -> tuple[str, ...]:
    """Names for as long as nothing was begun: after that, whatever is under way goes on."""
    return () if phases() else names


SOME = (
    "redis/app", "redis/replica", "redis/sentinel", "redis/admin", "sentinel/peer", "mysql/app", "mysql/grader",
    "mysql/replica", "rabbitmq/app", "rabbitmq/monitoring", "rabbitmq/admin",
)  # fmt: skip


def test_a_rotation_that_is_killed_again_and_again_comes_to_its_end() -> None:
    """At one point after another of the whole of it: while it looks, applies, proves and writes down."""
    before, begun, ended = values(*SOME), False, False
    with visiting("web1") as visits:
        for seconds in (3, 5, 7, 9, 11, 14, 17, 20, 24, 28, 33, 40):
            words = asked(*SOME)
            if begun and words:
                ended = True
                break
            killed(seconds, *words)
            begun = begun or bool(phases())
            assert begun or values(*SOME) == before
        if not ended and asked("x") == ():
            rotated()
        elif not begun:
            rotated(*SOME)
        time.sleep(3)
    unnoticed("a rotation is killed at many points", visits)
    after = values(*SOME)
    assert [name for name in SOME if after[name] == before[name]] == []
    well()


def test_a_controller_dies_at_each_step_of_its_roll() -> None:
    """Restarts are owed in the phase `use`; the command itself goes on with the roll that it had begun."""
    before = values(*SOME)
    rotated(*SOME, "--stop-after", "accept")
    copy = PLACE["inventory"]
    path_of(copy).unlink(missing_ok=True)
    deaths = 0
    with visiting("web1") as visits:
        while killed_at_a_new_step(copy, "secrets", "rotate", str(copy)):
            deaths += 1
            assert deaths < 300
    assert deaths > 3, "there was no roll to die in"
    unnoticed("a controller dies at each step of a rotation's roll", visits)
    after = values(*SOME)
    assert [name for name in SOME if after[name] == before[name]] == []
    well()


@pytest.mark.parametrize("phase", ["accept", "use"])
def test_an_abort_goes_back_and_nobody_notices(phase: str) -> None:
    before = values(*SOME)
    with visiting("web1") as visits:
        rotated(*SOME, "--stop-after", phase)
        rotated("--abort")
        time.sleep(3)
    unnoticed(f"a rotation is aborted after its phase {phase}", visits)
    assert values(*SOME) == before
    well()


@pytest.mark.parametrize("turns", [1, 2])
def test_a_rotation_that_dies_before_all_take_the_value_is_turned_around_and_that_as_well(turns: int) -> None:
    """Clients that came with the new value would be refused by servers that have not learned it: turned twice, they
    have to.
    """
    before = values(*SOME)
    with visiting("web1") as visits:
        assert killed(2, *SOME, phase="accept") is None
        assert set(phases().values()) == {"accept"}
        if turns == 2:
            assert killed(2, "--abort", phase="drop") is None
            assert set(phases().values()) == {"drop"}
        rotated("--abort")
        time.sleep(3)
    unnoticed(f"a rotation dies in phase accept, turned {turns} times, each but the last dies as well", visits)
    after = values(*SOME)
    assert {after[name] == before[name] for name in SOME} == {turns == 1}
    assert phases() == {}
    well()


def test_a_plan_says_what_a_phase_owes_and_apply_does_not_go_on() -> None:
    rotated("redis/proxy", "--stop-after", "accept")
    copy = PLACE["inventory"]
    found = fleet("plan", inventory=copy)
    assert found.returncode == 2
    assert "secrets in the phase use: redis/proxy" in found.stdout
    assert "/etc/haproxy/haproxy.cfg" in found.stdout
    assert json.loads(fleet("plan", "--json", inventory=copy).stdout)["secrets"] == {"redis/proxy": "use"}
    assert fleet("apply", inventory=copy).returncode == 0
    assert phases() == {"redis/proxy": "use"}, "apply brings a phase; whether it is proven, rotate says"
    assert json.loads(secrets("status", "--json").stdout)["code"] == 2
    assert rotated()["changed"] == ["redis/proxy"]
    well()


def test_a_phase_stops_at_a_host_that_has_not_got_it() -> None:
    program = "/usr/bin/prometheus-blackbox-exporter"
    rotated("redis/probe", "--stop-after", "accept")
    before = values("redis/probe")
    try:
        # Its checker is gone: no other configuration becomes the live one, and the one that runs goes on.
        on("mon1", f"mv {program} {program}.away")
        done = secrets("rotate")
        assert done.returncode == 1, done.stdout
        assert "mon1" in done.stdout + done.stderr
        assert phases() == {"redis/probe": "use"}
        servers_take_what_the_vault_says()
    finally:
        on("mon1", f"mv {program}.away {program}")
    rotated()
    assert values("redis/probe") == before, "in the phase use clients come with the next value already"
    well()


def test_a_rotation_begins_on_a_fleet_that_is_as_its_inventory_says() -> None:
    on("web1", "echo '# by hand' >>/etc/haproxy/haproxy.cfg")
    done = secrets("rotate", "redis/app")
    assert done.returncode == 1
    assert "fleet apply first" in done.stderr
    assert phases() == {}
    assert fleet("apply", inventory=PLACE["inventory"]).returncode == 0


def test_the_cookie_is_changed_while_all_brokers_are_stopped() -> None:
    """The documented full stop (docs/secrets.md): what was in the queues is there afterwards."""
    members = [host.name for host in the_fleet().members("rabbitmq")]
    before = values(COOKIE)
    done = secrets("rotate", COOKIE)
    assert done.returncode == 1
    assert "--interrupt" in done.stderr
    done = secrets("rotate", COOKIE, "--interrupt")
    assert done.returncode == 1
    assert "it runs" in done.stderr
    assert values(COOKIE) == before
    with loaded("cookie") as running:
        ledgers = running.end()
    begun = time.monotonic()
    for member in members:
        on(member, "systemctl stop rabbitmq-server")
    done = secrets("rotate", COOKIE, "--interrupt")
    said = done.stdout + done.stderr
    assert values(COOKIE) != before, said
    # Where the brokers had not agreed when it looked again, an apply goes on.
    assert done.returncode == 0 or "rabbit" in said, said
    applied(inventory=PLACE["inventory"])
    results.note("the cookie is changed", seconds_without_brokers=time.monotonic() - begun)
    settled(inventory=PLACE["inventory"])
    found: set[str] = set()

    def all_there() -> bool:
        found.update(drained())
        return ledgers["messages"].ids() <= found

    eventually("every message is there", all_there, 60)
    well()
