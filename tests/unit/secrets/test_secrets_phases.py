"""What each phase of a rotation changes on hosts, for every secret of every role: servers first, then clients alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from deploy.converge.desired import context, host_state, secret_specs
from deploy.model.fleet import Fleet, Live
from deploy.model.profiles import REFERENCE
from deploy.model.profiles import UPSTREAM as REAL
from deploy.model.resources import File, Only, Parameter, Query, Resource, StepClass, Unit
from deploy.model.secrets import Change, Credential, account
from tests.unit.test_apply_classes import fleet as reference
from tests.unit.upstream.fleets import fleet as upstream

OLD, NEW = Credential("OldOldOldOldOldOldOldOldOldOldOl", 0), Credential("NewNewNewNewNewNewNewNewNewNewNe", 1)
PHASES = {"before": ((OLD,), OLD), "accept": ((OLD, NEW), OLD), "use": ((OLD, NEW), NEW), "drop": ((NEW,), NEW)}
FLEETS = {"reference": (reference(), REFERENCE), "upstream": (upstream(), REAL)}
CASES = [
    pytest.param(name, secret, id=f"{name} {secret}")
    for name, (_, profile) in FLEETS.items()
    for secret, spec in secret_specs(profile).items()
    if spec.change is Change.PHASES
]
IN_PLAIN = frozenset({"/etc/fleet/mysql-accounts.sql"})
"""Where a server is told values themselves: MySQL's hashes have a salt of their own."""

NOBODYS = ("upstream", "rabbitmq/operator")
"""`fleet queue` is the reference workers' own."""
NO_QUESTION = Query("", "")

Wanted = dict[tuple[str, str], Resource]


def wanted(fleet: Fleet, secret: str, phase: str) -> Wanted:
    accepted, used = PHASES[phase]
    leaders = {
        cluster: fleet.members(service.name)[0].name for service in fleet.services() for cluster in service.clusters
    }

    def value(name: str) -> str:
        return used.value if name == secret else f"Some{name.replace('/', '').replace('-', '')}".ljust(32, "x")[:32]

    def values(name: str) -> tuple[Credential, ...]:
        return accepted if name == secret else (Credential(value(name)),)

    found: Wanted = {}
    for host in fleet.hosts:
        ctx = context(fleet, host, Live(leaders, frozenset(leaders)), "CA", value, accepted=values)
        found |= {(host.name, item.key): item for item in host_state(ctx).resources}
    return found


def changed(before: Wanted, after: Wanted) -> Wanted:
    """What is to be otherwise; that the question differs, which one look asks for many things, changes nothing."""

    def bare(item: Resource | None) -> Resource | None:
        return replace(item, query=NO_QUESTION) if isinstance(item, Parameter | Only) else item

    return {key: item for key, item in after.items() if bare(before.get(key)) != bare(item)}


def loaded(host: str, everything: Wanted) -> Mapping[str, Unit]:
    """Path -> the unit that has to be restarted or reloaded for it."""
    units = [item for (name, _), item in everything.items() if name == host and isinstance(item, Unit)]
    return {path: unit for unit in units for path in (*unit.restart_files, *unit.reload_files)}


def shown(item: Resource) -> str:
    """All that a host gets of it."""
    match item:
        case File(content=content):
            return content
        case Parameter(act=act, query=query, want=want):
            return f"{act}\n{query.script}\n{want}"
        case Only(act=act, query=query):
            return f"{act}\n{query.script}"
    return ""


def holders(everything: Wanted, value: Credential) -> set[str]:
    return {key for (_, key), item in everything.items() if value.value in shown(item)}


@pytest.mark.parametrize(("name", "secret"), CASES)
def test_who_comes_with_which_value(name: str, secret: str) -> None:
    fleet = FLEETS[name][0]
    states = {phase: wanted(fleet, secret, phase) for phase in PHASES}
    plain = {f"file:{path}" for path in IN_PLAIN}
    clients = holders(states["before"], OLD) - plain
    assert clients or (name, secret) == NOBODYS, "nobody comes with it"
    assert holders(states["accept"], OLD) - plain == clients
    assert holders(states["accept"], NEW) - plain == set()
    assert holders(states["use"], NEW) - plain == clients, "a client was left behind"
    assert holders(states["use"], OLD) - plain == set()
    assert holders(states["drop"], OLD) == set()


@pytest.mark.parametrize(("name", "secret"), CASES)
def test_servers_are_told_without_a_restart(name: str, secret: str) -> None:
    """Before clients turn, and after: so that nothing is in the way of either but what is hot."""
    fleet = FLEETS[name][0]
    states = {phase: wanted(fleet, secret, phase) for phase in PHASES}
    for earlier, later in (("before", "accept"), ("use", "drop")):
        for (host, key), item in changed(states[earlier], states[later]).items():
            if isinstance(item, File):
                assert item.path not in loaded(host, states[later]), (later, key)
            else:
                assert isinstance(item, Parameter | Only), (later, key)
                assert not (isinstance(item, Parameter) and item.step is StepClass.RESTART), (later, key)


@pytest.mark.parametrize(("name", "secret"), CASES)
def test_servers_are_not_told_anything_while_clients_turn(name: str, secret: str) -> None:
    """But of what the deployment itself comes with, from the host itself, which is told with its file."""
    fleet = FLEETS[name][0]
    before, after = wanted(fleet, secret, "accept"), wanted(fleet, secret, "use")
    told = {key for (_, key), item in changed(before, after).items() if is_servers(item)}
    if secret == "rabbitmq/admin":
        assert told == {"rabbitmq:password fleet", "file:/etc/rabbitmq/definitions.json"}
    else:
        assert told == set()


def is_servers(item: Resource) -> bool:
    key = item.key
    return (
        key.startswith(("rabbitmq:user ", "rabbitmq:password ", "rabbitmq:permission "))
        or key.endswith(("users.acl", ": users", "definitions.json", "mysql-accounts.sql", "mysql:accounts"))
        or ":account " in key
    )


@pytest.mark.parametrize("secret", ["rabbitmq/app", "rabbitmq/operator", "rabbitmq/monitoring"])
def test_a_broker_has_two_users_while_one_takes_the_others_place(secret: str) -> None:
    fleet = FLEETS["reference"][0]
    user = {"rabbitmq/app": "omegaup", "rabbitmq/operator": "operator", "rabbitmq/monitoring": "monitoring"}[secret]
    found = {}
    for phase in PHASES:
        keys = {key for _, key in wanted(fleet, secret, phase)}
        found[phase] = {one for one in (user, f"{user}-b") if f"rabbitmq:user {one}" in keys}
        for one in (user, f"{user}-b"):
            has = {f"rabbitmq:{kind} {one}" in keys for kind in ("user", "password")}
            has.add(f"rabbitmq:permission %2F/{one}" in keys)
            assert len(has) == 1, "a user without its rights, or rights without a user"
    both = {user, f"{user}-b"}
    assert found == {"before": {user}, "accept": both, "use": both, "drop": {f"{user}-b"}}


def test_names_of_accounts_take_turns() -> None:
    assert [account("omegaup", turn) for turn in range(4)] == ["omegaup", "omegaup-b", "omegaup", "omegaup-b"]


@pytest.mark.parametrize("name", FLEETS)
def test_every_secret_says_how_it_is_changed(name: str) -> None:
    for secret, spec in secret_specs(FLEETS[name][1]).items():
        assert spec.purpose, secret
        assert bool(spec.why) == (spec.change is not Change.PHASES), secret
