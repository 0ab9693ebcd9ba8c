"""Somebody is root on a web host: what can be had from there, listed by trying.

With everything that lies on the host: its keys, every password in its files, its place in the network. What has to come
of it is computed from the catalog and from what the roles declare; what a web host may do, a thief there may as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from deploy.model.catalog import DEAD_LETTERS, EXCHANGES, QUEUES, SERVICES, SSL_DIR
from deploy.roles import mysql_access, rabbitmq_topology
from deploy.roles import redis as redis_role
from deploy.roles.common import CA_FILE
from lab import exec_, inside
from tests import attacks
from tests.chaos import attackers, thief
from tests.chaos.application import FRONTEND, GITSERVER, put_problem
from tests.chaos.attackers import Place
from tests.chaos.failover import redis, the_fleet
from tests.chaos.support import SPEC, on
from tests.chaos.sweeping import ROOTS, context, declared, vault, within
from tests.chaos.test_firewall import allowed
from tests.chaos.test_mutual_tls import PROBES
from tests.chaos.test_role_matrix import every_port, open_to_anyone, ssh_ports

STOLEN = the_fleet().members("frontend")[-1]
OTHERS = tuple(host for host in the_fleet().hosts if host is not STOLEN)
pytestmark = pytest.mark.skipif(len(the_fleet().hosts) == 1, reason="on a fleet of one host, all is on the stolen one")


@cache
def found() -> dict[str, str]:
    """Name -> every secret that lies on the host, in the files that hold them."""
    every = vault()
    texts = [on(STOLEN.name, f"cat {shlex.quote(path)}") for path in declared(STOLEN.name, every)]
    return {name: every[name] for name in sorted(set().union(*(within(text, every) for text in texts)))}


def enter() -> list[str]:
    pid = inside.pid(SPEC, STOLEN.name)
    assert pid is not None
    return ["nsenter", "--target", str(pid), "--net"]


@cache
def loot() -> dict[str, dict[str, dict[str, Any]]]:
    """What came of trying every password for every account that there is."""
    ctx = context(STOLEN.name, vault())
    database = next(host for host in the_fleet().members("mysql"))
    orders = {
        "passwords": list(found().values()),
        "ssl": f"/proc/{inside.pid(SPEC, STOLEN.name)}/root{SSL_DIR}",
        "redis": {name: list(redis_role.acl(ctx, name)) for name in redis_role.INSTANCES},
        "amqp": {
            "users": list(rabbitmq_topology.users(ctx)),
            "exchanges": [*EXCHANGES, DEAD_LETTERS],
            "queues": [name for queue in QUEUES for name in (queue.name, rabbitmq_topology.dead(queue.name))],
        },
        "mysql": {
            "users": sorted({login.user for login in mysql_access.logins(context(database.name, vault()))} | {"root"}),
            "statements": thief.statements(STOLEN.settings.mysql.database),
        },
    }  # fmt: skip
    return thief.tried(enter(), orders)


# What lies on it.


def test_no_other_key_lies_there() -> None:
    """The keys of its own services, and its own of SSH: nobody else's, and none of a CA."""
    script = f"grep -rlaE -D skip -e '-----BEGIN ([A-Z]+ )*PRIVATE KEY' {' '.join(ROOTS)} 2>/dev/null || true"
    keys = set(on(STOLEN.name, script).split())
    own = {f"{SSL_DIR}/{service.name}.key" for service in STOLEN.services if service.identity}
    system = {path for path in keys if path.startswith(("/etc/ssh/ssh_host_", "/etc/ssl/private/"))}
    assert own <= keys
    assert keys - own - system == set()


def test_its_keys_are_the_keys_of_nobody_else() -> None:
    def public(host: str, script: str) -> set[str]:
        return {line for line in on(host, script).splitlines() if line}

    digest = "openssl pkey -pubin -outform DER 2>/dev/null | sha256sum"
    mine = public(STOLEN.name, f"for k in {SSL_DIR}/*.key; do openssl pkey -in $k -pubout | {digest}; done")
    assert len(mine) == len([service for service in STOLEN.services if service.identity])
    for host in OTHERS:
        theirs = f"for c in {SSL_DIR}/*.crt; do openssl x509 -in $c -noout -pubkey | {digest}; done"
        assert mine & public(host.name, theirs) == set(), host.name


def test_the_key_of_the_ca_is_on_no_host() -> None:
    """Nor what is encrypted to the operators: neither it nor the vault leaves the controller."""
    script = (
        f"ls {SSL_DIR}/ca.key 2>/dev/null || true\n"
        f"grep -rla -D skip -e '-----BEGIN AGE ENCRYPTED FILE' -e age-encryption.org/v1 "
        "/etc /root /home /srv /opt/omegaup /var/lib/fleet 2>/dev/null || true"
    )
    for host in the_fleet().hosts:
        assert on(host.name, script).split() == [], host.name


def test_what_lies_there_is_what_its_roles_declare() -> None:
    """Nothing that administers anything."""
    ctx = context(STOLEN.name, vault())
    administrators = {user.secret for user in rabbitmq_topology.users(ctx).values() if "administrator" in user.tags}
    administrators |= {"redis/admin", "redis/replica", "redis/sentinel", "sentinel/peer", "rabbitmq/cookie"}
    assert found().keys() & administrators == set()
    assert found().keys() & {"mysql/grader", "mysql/worker", "mysql/replica", "mysql/seed"} == set()


# Where it can be used.


def test_redis_opens_to_the_accounts_of_its_own_services_alone() -> None:
    ctx = context(STOLEN.name, vault())
    digests = {hashlib.sha256(value.encode()).hexdigest() for value in found().values()}
    to_be = {
        f"{instance} {user}"
        for instance in redis_role.INSTANCES
        for user, rules in redis_role.acl(ctx, instance).items()
        if any(digest in rules for digest in digests)
    }
    assert loot()["redis"].keys() == to_be


def test_redis_configuration_cannot_be_written_nor_read() -> None:
    let = {
        (who, what): said
        for who, tries in loot()["redis"].items()
        for what, said in tries.items()
        if said != thief.REFUSED
    }
    assert let == {}


def test_redis_cannot_be_destroyed() -> None:
    """As Redis itself says it: who may log in from there may do none of it. Its own user, the twin, may all."""
    members = the_fleet().members("redis")
    for account in loot()["redis"]:
        instance, _, user = account.partition(" ")
        port = SERVICES["redis"].port(instance).number
        for command in thief.DESTRUCTIVE:
            said = " ".join(redis(members[0].name, port, "ACL", "DRYRUN", user, command.replace("?", "'?'")))
            assert "no permissions" in said, (account, command, said)
            twin = " ".join(redis(members[0].name, port, "ACL", "DRYRUN", "fleet", command.replace("?", "'?'")))
            assert twin == "OK", (command, twin)


def granted(user: rabbitmq_topology.User, tried: str) -> bool:
    """Whether the declared permissions of a user let it do what was tried."""
    configure, write, read = user.permissions
    verb, _, name = tried.split(" ", 2)
    name = {"(the broker's own)": "amq.direct", "(the default)": "amq.default"}.get(name, name)
    if verb == "bind":  # of the queue to be written to, and of the exchange to be read from
        return bool(re.search(write, name)) and bool(re.search(read, "amq.direct"))
    pattern = {"make": configure, "delete": configure, "write": write, "read": read}[verb]
    return bool(re.search(pattern, name))


def test_messages_go_where_the_application_sends_them_and_nowhere_else() -> None:
    ctx = context(STOLEN.name, vault())
    users = rabbitmq_topology.users(ctx)
    assert loot()["amqp"].keys() == {name for name, user in users.items() if user.secret in found()}
    for name, tries in loot()["amqp"].items():
        let = {what for what, said in tries.items() if said == thief.ALLOWED}
        assert let == {what for what in tries if granted(users[name], what)}, name
        assert not {what for what in let if what.startswith(("make", "delete", "bind"))}
        assert not {what for what in let if what.startswith("read") and what.endswith(".dead")}


def test_the_broker_cannot_be_administered() -> None:
    """By its API, straight from there, with every password for every user; what only looks is monitoring's."""
    ctx, member = context(STOLEN.name, vault()), the_fleet().members("rabbitmq")[0]
    broker = member.own("rabbitmq")
    (port,) = {broker.port(health.outside or health.port) for health in broker.health}
    tls = member.mutual(port)
    pair = ""
    if tls:
        role = next(name for name in sorted(port.clients) if STOLEN.has(name))
        pair = f"--cacert {CA_FILE} --cert {SSL_DIR}/{role}.crt --key {SSL_DIR}/{role}.key"
    base = f"{'https' if tls else 'http'}://{member.name}:{port.number}/api"
    # None of it would last: a user without a password, what is there already, a queue that is not.
    asks = (
        ("PUT", "users/chaos-thief", '{"password_hash": "", "tags": ""}'), ("GET", "users", ""),
        ("GET", "definitions", ""), ("GET", "permissions", ""), ("PUT", "policies/%2F/chaos-thief",
        '{"pattern": "^chaos-no-such-queue$", "definition": {"max-length": 1}}'),
        ("PUT", "vhosts/chaos-thief", "{}"), ("DELETE", "vhosts/chaos-no-such-vhost", ""),
        ("PUT", "parameters/shovel/%2F/chaos-thief", '{"value": {}}'),
    )  # fmt: skip
    let: dict[tuple[str, str, str], str] = {}
    for user in rabbitmq_topology.users(ctx):
        for name, password in found().items():
            script = "".join(
                f"printf '%s' {shlex.quote(body)} | curl -s -m 10 -o /dev/null -w '%{{http_code}}\\n' --noproxy '*' "
                f"{pair} -K /dev/fd/3 -X {method} -H 'content-type: application/json' --data-binary @- {base}/{path} "
                f"3<<'LOGIN'\nuser = \"{user}:{password}\"\nLOGIN\n"
                for method, path, body in asks
            )
            # Not in a command line, even here.
            done = exec_(SPEC, STOLEN.name, ["sh", "-eu"], input=script, timeout=120)
            codes = done.stdout.split()
            assert len(codes) == len(asks), done.stderr[-500:]
            let |= {
                (user, name, f"{method} {path}"): code
                for (method, path, _), code in zip(asks, codes, strict=True)
                if code not in {"401", "403"}
            }
    assert let == {}


def test_the_twin_may_administer_the_broker() -> None:
    """What was refused above is not refused to whom it belongs: on a member, with the deployment's own login."""
    member = the_fleet().members("rabbitmq")[0].name
    assert json.loads(on(member, f"{rabbitmq_topology.API} GET users </dev/null"))
    assert json.loads(on(member, f"{rabbitmq_topology.API} GET definitions </dev/null"))


def test_the_database_gives_the_applications_grants_and_no_others() -> None:
    database = the_fleet().members("mysql")[0]
    logins = mysql_access.logins(context(database.name, vault()))
    mine = {login.user: login for login in logins if login.address == STOLEN.address and login.secret in found()}
    assert loot()["mysql"].keys() == mine.keys()
    for user, said in loot()["mysql"].items():
        assert {statement: came for statement, came in said["tries"].items() if came != thief.REFUSED} == {}, user
        grants = [line for line in said["grants"] if "USAGE" not in line]
        assert len(grants) == len(mine[user].grants)
        for scope, privileges in mine[user].grants.items():
            line = next(line for line in grants if scope.replace("\\_", "_") in line.replace("\\_", "_"))
            given = {word.strip() for word in line.removeprefix("GRANT ").partition(" ON ")[0].split(",")}
            assert given == set(privileges)


# Whom it can reach.


def reached(places: Mapping[Place, bool]) -> set[Place]:
    return {place for place in attackers.knocked(enter(), list(places)) if not places[place]}


def test_ports_that_the_catalog_does_not_give_it_are_closed() -> None:
    places = {
        (host.address, port): port in allowed(STOLEN, host) | open_to_anyone(host)
        for host in OTHERS
        for port in every_port(host)
    }
    assert reached(places) == set()


@pytest.mark.thorough
@pytest.mark.parametrize("host", OTHERS, ids=[host.name for host in OTHERS])
def test_no_port_at_all_but_those_of_the_catalog(host: Any) -> None:
    """Whatever listens that the catalog does not know."""
    places = {(host.address, port): port in allowed(STOLEN, host) | open_to_anyone(host) for port in range(1, 65536)}
    assert reached(places) == set()


def test_it_cannot_log_in_anywhere() -> None:
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"
    for host in OTHERS:
        for port in ssh_ports(host):  # none: then it does not even get so far
            said = on(STOLEN.name, f"{ssh} -p {port} root@{host.address} true 2>&1 && echo IN || true")
            assert "IN" not in said.splitlines()
            assert "denied" in said, said


def asked(role: str, method: str, url: str, *options: str) -> str:
    """The code of a call with one of the host's own certificates."""
    pair = f"--cacert {CA_FILE} --cert {SSL_DIR}/{role}.crt --key {SSL_DIR}/{role}.key"
    curl = f"curl -s -m 10 --noproxy '*' --path-as-is -o /dev/null -w '%{{http_code}}' {pair} -X {method}"
    return on(STOLEN.name, f"{curl} {' '.join(map(shlex.quote, options))} {shlex.quote(url)} || true").strip()


def test_the_backends_do_for_it_what_they_do_for_the_frontend() -> None:
    grader = f"https://grader:{SERVICES['grader'].port('https').number}"
    broadcaster = f"https://broadcaster:{SERVICES['broadcaster'].port('https').number}"
    event = json.dumps({"event": "thief", "data": 1})
    to_be = {
        ("GET", f"{GITSERVER}/health"): "200", ("GET", f"{GITSERVER}/problem/no-such-problem/settings"): "404",
        ("DELETE", f"{GITSERVER}/problem/faults/settings"): "405",
        ("POST", f"{GITSERVER}/problem/faults/settings"): "405",
        ("GET", f"{GITSERVER}/problem/"): "404", ("GET", f"{GITSERVER}/"): "404",
        ("GET", f"{grader}/grader/status/"): "200", ("GET", f"{grader}/run/request/"): "404",
        ("POST", f"{grader}/run/register"): "404", ("POST", f"{grader}/run/result/1"): "404",
        ("POST", f"{broadcaster}/broadcast/"): "403", ("DELETE", f"{broadcaster}/events/"): "405",
    }  # fmt: skip
    there_is = {
        (method, url): asked("frontend", method, url, *(["--data", event] if method == "POST" else []))
        for method, url in to_be
    }
    assert there_is == to_be


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.thorough] if number % 6 else [])
        for number, path in enumerate(attacks.TRAVERSALS)
    ],
)
def test_no_path_of_the_gitserver_leads_beyond_its_problems(path: str) -> None:
    assert asked("frontend", "GET", f"{GITSERVER}{path}") in {"404", "400", "405"}
    assert asked("frontend", "PUT", f"{GITSERVER}{path}", "--data", "{}") in {"404", "400", "405"}


def test_the_problems_themselves_are_the_frontends() -> None:
    """The twin: it is not that the gitserver answers nobody."""
    put_problem()
    on(the_fleet().members("frontend")[0].name, f"curl -sf -m 10 {FRONTEND} {GITSERVER}/problem/faults/settings")
    assert asked("frontend", "GET", f"{GITSERVER}/problem/faults/settings") == "200"


def test_others_journals_cannot_be_read_there() -> None:
    """Nor figures, nor the status page. (That it writes into its own journal alone is in test_logs.py.)"""
    for keeper in the_fleet().members("log-store"):
        base = f"https://{keeper.name}:{SERVICES['log-store'].port('https').number}"
        codes = {path: asked("log-sender", "GET", f"{base}{path}") for path in ("/entries", "/browse", "/", "/upload")}
        # Another monitoring host keeps no journals.
        assert set(codes.values()) <= {"404", "403", "000"}, codes
        for role in ("frontend", "log-sender"):
            door = f"https://{keeper.name}:{SERVICES['door'].port('https').number}{PROBES['door', 'https'][1]}"
            assert asked(role, "GET", door) in {"000", "403"}
