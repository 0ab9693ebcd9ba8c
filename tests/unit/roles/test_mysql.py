"""The database role: who leads, from what the members say; accounts, variables and schema as data; its shell parses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from deploy.converge.compare import steps
from deploy.converge.desired import host_state, render, tree
from deploy.converge.look import parse
from deploy.errors import FleetError
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.observed import Answer, HostFactsSeen, Snapshot
from deploy.model.resources import File, Only, Parameter, Phase, Query, Resource, StepClass
from deploy.roles import mysql, mysql_access
from deploy.roles.mysql_members import FILES_QUERY, SERVER_QUERY, leader, member

HOSTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "data1": ("10.0.0.11", frozenset({"mysql"})),
    "data2": ("10.0.0.12", frozenset({"mysql"})),
    "data3": ("10.0.0.13", frozenset({"mysql"})),
    "web1": ("10.0.0.21", frozenset({"frontend"})),
    "app1": ("10.0.0.31", frozenset({"grader", "worker"})),
}
ADDRESS = {name: address for name, (address, _) in HOSTS.items()}


def context(host: str = "data1", leads: str = "data1", members: int = 3, **data: Any) -> Context:
    chosen = {name: value for name, value in HOSTS.items() if not name.startswith("data") or int(name[4:]) <= members}
    fleet = build(
        "test",
        {name: HostInput(groups, {"ssh_hostname": address, **data}) for name, (address, groups) in chosen.items()},
    )
    return Context(
        fleet=fleet, host=fleet.host(host), live=Live({"mysql": leads}), authority="CA", render=render, files=tree,
        secret=lambda name: f"secret of {name}",
    )  # fmt: skip


def says(
    origin: str = "", *, read_only: str = "ON", follows: str = "", running: bool = True,
    file_follows: str | None = None, promised: str = "", values: Mapping[str, str] | None = None,
) -> Snapshot:  # fmt: skip
    """A look at one member."""
    server = Answer(
        {"variable read_only": read_only, "follows": follows, **(values or {})}, "" if running else "not running"
    )
    files = Answer(
        {"origin": origin, "follows": follows if file_follows is None else file_follows, "promised": promised}
    )
    return Snapshot(
        "x", HostFactsSeen("debian", "12", 1, 1),
        answers={SERVER_QUERY: server if running else Answer({}, "not running"), FILES_QUERY: files},
    )  # fmt: skip


PRIMARY = says("primary", read_only="OFF")
CLOSED = says("primary")
BARE = says(running=False)
EMPTY = says()
DEBIANS_OWN = says(read_only="OFF")


def copy_of(name: str, **more: Any) -> Snapshot:
    return says(f"seeded {ADDRESS[name]}", follows=ADDRESS[name], **more)


def found(*members: Snapshot | None) -> str | None:
    seen = {f"data{i}": snapshot for i, snapshot in enumerate(members, 1) if snapshot is not None}
    return leader(context(members=len(members)), seen)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param((BARE, BARE, BARE), None, id="first boot"),
        pytest.param((EMPTY, BARE, DEBIANS_OWN), None, id="first boot, Debian's server ran already"),
        pytest.param((PRIMARY, copy_of("data1"), copy_of("data1")), "data1", id="in order"),
        pytest.param((BARE, says("primary", read_only="OFF"), copy_of("data2")), "data2", id="a bare first member"),
        pytest.param((PRIMARY, copy_of("data1", read_only="OFF"), BARE), "data1", id="a replica made writable"),
        pytest.param((PRIMARY, DEBIANS_OWN, BARE), "data1", id="a stranger's writable server is no primary"),
        pytest.param((PRIMARY, None, None), "data1", id="one writable, the others silent"),
        pytest.param((CLOSED, copy_of("data1"), copy_of("data1")), "data1", id="primary came back read-only"),
        pytest.param((CLOSED, says("seeding 10.0.0.11"), BARE), "data1", id="interrupted before any replica"),
        pytest.param(
            (says("primary", running=False), copy_of("data1"), copy_of("data1")), "data1", id="primary's unit stopped"
        ),
        pytest.param(
            (CLOSED, copy_of("data1", running=False), copy_of("data1")), "data1", id="read-only, a replica stopped"
        ),
        pytest.param(
            (CLOSED, says("seeded 10.0.0.11", read_only="OFF"), copy_of("data1")), "data2", id="promoted by hand"
        ),
        pytest.param(
            (copy_of("data2"), says("seeded x", promised="switchover 10.0.0.11"), copy_of("data1")),
            "data2",
            id="a move broke off before the third followed",
        ),
        pytest.param((PRIMARY,), "data1", id="alone"),
        pytest.param((CLOSED,), "data1", id="alone, read-only"),
        pytest.param((says("primary", running=False),), "data1", id="alone, stopped"),
        pytest.param((BARE,), None, id="alone, bare"),
    ],
)
def test_leader(members: tuple[Snapshot | None, ...], expected: str | None) -> None:
    assert found(*members) == expected


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param(
            (PRIMARY, says("seeded x", read_only="OFF"), BARE), "2 writable primaries: data1, data2", id="two"
        ),
        pytest.param((CLOSED, None, copy_of("data1")), "no answer of data2", id="read-only and one silent"),
        pytest.param((None, BARE, BARE), "no answer of data1", id="first boot and one silent"),
        pytest.param((BARE, copy_of("data1"), copy_of("data1")), "data1 has no data of the fleet's", id="emptied"),
        pytest.param((CLOSED, says("seeded 10.0.0.11"), copy_of("data1")), "data2 follows nobody", id="two heads"),
        pytest.param((CLOSED, copy_of("data3"), copy_of("data1")), "data2 follows 10.0.0.13", id="a circle"),
        pytest.param((says("reseed"), copy_of("data1"), copy_of("data1")), "no writable primary", id="given up"),
        pytest.param((CLOSED, copy_of("web1"), copy_of("data1")), "data2 follows 10.0.0.21", id="a stranger's replica"),
    ],
)
def test_no_leader_is_told(members: tuple[Snapshot | None, ...], words: str) -> None:
    with pytest.raises(FleetError) as error:
        found(*members)
    assert words in error.value.found


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param(
            (CLOSED, says("seeded x", promised="switchover 10.0.0.11"), copy_of("data1")),
            "a switchover to data2 broke off: `fleet db switchover` again", id="a switchover",
        ),
        pytest.param(
            (says("primary", running=False), says("seeded x", promised="failover 10.0.0.11"), copy_of("data2")),
            "a failover to data2 broke off: `fleet db failover` again", id="a failover",
        ),
        pytest.param(
            (copy_of("web1"), copy_of("web1"), copy_of("web1")), "10.0.0.21, was taken out of the inventory while it",
            id="the primary was taken out",
        ),
        pytest.param(
            (BARE, copy_of("data1"), copy_of("data1")), "data1, which they follow, has lost its disk", id="no disk",
        ),
        pytest.param((CLOSED, copy_of("data3"), copy_of("data1")), "prove that no other server takes", id="else"),
    ],
)  # fmt: skip
def test_the_way_out_is_told(members: tuple[Snapshot | None, ...], words: str) -> None:
    with pytest.raises(FleetError) as error:
        found(*members)
    assert words in error.value.hint
    assert ("read_only=0" in error.value.hint) == (words == "prove that no other server takes")


R2 = "167772172"
"""data2's server number."""


def agreed(replica: Snapshot, **primary: str) -> None:
    seen = {"data1": says("primary", read_only="OFF", values=primary), "data2": replica, "data3": copy_of("data1")}
    mysql.clusters(context(), seen)


def wrote(up_to: str, **more: Any) -> Snapshot:
    return copy_of("data1", values={"variable server_id": R2, "writes": f"its own, up to {up_to}"}, **more)


def test_a_replica_with_writes_of_its_own_is_refused() -> None:
    with pytest.raises(
        FleetError, match=f"data2: mysql: found transactions of its own up to 1-{R2}-9, .* none"
    ) as error:
        agreed(wrote(f"1-{R2}-9"), state="1-167772171-8")
    assert "echo reseed >/var/lib/mysql/fleet-origin" in error.value.hint
    with pytest.raises(FleetError, match="those up to 7"):
        agreed(wrote(f"1-{R2}-9"), state=f"1-{R2}-7,1-167772171-8")


def test_a_failover_from_before_the_copy_was_made_explains_nothing() -> None:
    for lost, refused in (("1500", False), ("999", True)):
        replica = wrote(f"1-{R2}-9")
        files = replica.answers[FILES_QUERY]
        answers = {**replica.answers, FILES_QUERY: Answer({**files.values, "since": "1000"})}
        with pytest.raises(FleetError, match="of its own") if refused else nullcontext():
            agreed(replace(replica, answers=answers), state="1-167772171-8", **{f"lost {R2}": lost})


def test_what_the_primary_has_too_is_not_its_own() -> None:
    agreed(wrote(f"1-{R2}-9"), state=f"1-167772171-12,1-{R2}-9")
    nothing = copy_of("data1", values={"variable server_id": R2, "writes": "none of its own"})
    agreed(nothing, state="1-167772171-12")
    # An old primary that a failover replaced, to be filled anew; one that is given up; one that is not running.
    agreed(wrote(f"1-{R2}-9"), state="1-167772171-8", **{f"lost {R2}": "1500"})
    agreed(replace(wrote(f"1-{R2}-9"), answers=says("reseed").answers), state="1-167772171-8")
    agreed(wrote(f"1-{R2}-9", running=False), state="1-167772171-8")


def test_a_primary_alone_with_new_members_waits_until_they_are_filled() -> None:
    def patience(empty: frozenset[str]) -> str:
        ctx = replace(context(), live=Live({"mysql": "data1"}, empty={"mysql": empty}))
        wanted = by_key(ctx)["mysql:semi-sync"]
        assert isinstance(wanted, Parameter)
        return wanted.act.rpartition(" ")[2]

    assert patience(frozenset({"data2", "data3"})) == str(mysql.SEED_SECONDS + 60)
    assert patience(frozenset({"data3"})) == patience(frozenset()) == "30"


def test_a_stopped_server_is_read_from_its_files() -> None:
    one = member("data2", "10.0.0.12", says("seeded 10.0.0.11", running=False, file_follows="10.0.0.11"))
    assert (one.held, one.running, one.writable, one.follows) == (True, False, False, "10.0.0.11")


def by_key(ctx: Context) -> dict[str, Resource]:
    return {item.key: item for item in mysql.desired(ctx)}


def test_one_account_for_each_client_address() -> None:
    names = [login.name for login in mysql_access.logins(context())]
    assert names[:3] == ["omegaup@10.0.0.21", "grader@10.0.0.31", "worker@10.0.0.31"]
    assert {name for name in names if name.startswith("replica@")} == {f"replica@10.0.0.1{i}" for i in (1, 2, 3)}
    alone = [login.user for login in mysql_access.logins(context(members=1))]
    assert alone == ["omegaup", "grader", "worker", "mysql", "prometheus"]


def test_grants_are_shown_as_the_look_prints_them() -> None:
    grader = next(login for login in mysql_access.logins(context()) if login.user == "grader")
    assert grader.shown == ("`omegaup`.`Runs`: INSERT, SELECT, UPDATE; `omegaup`.`Submissions`: INSERT, SELECT, UPDATE")


def test_an_underscore_is_no_wildcard_in_a_grant() -> None:
    (app,) = (one for one in mysql_access.logins(context(mysql={"database": "a_b"})) if one.user == "omegaup")
    assert app.shown == "`a\\_b`.*: DELETE, INSERT, SELECT, UPDATE"


@pytest.mark.parametrize("name", ["grader", "replica", "root"])
def test_a_taken_user_name_is_refused(name: str) -> None:
    with pytest.raises(FleetError, match="another name"):
        mysql_access.logins(context(mysql={"user": name}))


def test_digest_is_the_servers() -> None:
    # SELECT PASSWORD('password') on 10.11
    assert mysql_access.digest("password") == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"


def test_literals_cannot_be_left() -> None:
    assert mysql_access.literal("a'b\\") == "'a''b\\\\'"


def test_server_ids_come_from_addresses() -> None:
    hosts = [context(name).host for name in ("data1", "data2", "data3")]
    assert [mysql.server_id(host) for host in hosts] == [167772171, 167772172, 167772173]
    assert 0 < mysql.server_id(replace(hosts[0], address="fd00::1")) < 2**32


def test_sizes_are_rounded_as_the_server_does() -> None:
    values = mysql.variables(
        context(mysql={"innodb_buffer_pool_size": 130000 * 1024, "max_allowed_packet": 33000001,
                       "innodb_log_file_size": 100663297})
    )  # fmt: skip
    assert values["innodb_buffer_pool_size"] == "132120576"
    assert values["max_allowed_packet"] == "32999424"
    assert values["innodb_log_file_size"] == "100663296"


def test_every_member_starts_read_only_and_only_the_primary_is_opened() -> None:
    primary, replica = by_key(context()), by_key(context("data2"))
    for wanted in (primary, replica):
        config = wanted[f"file:{mysql.CONFIG}"]
        assert isinstance(config, File)
        assert "read_only = ON" in config.content.splitlines()
    assert isinstance(opened := primary["mysql:read_only"], Parameter)
    assert isinstance(closed := replica["mysql:read_only"], Parameter)
    assert (opened.want, opened.at_start) == ("OFF", False)
    assert (closed.want, closed.at_start) == ("ON", True)
    # It is the last thing done to it: accounts and tables are there first.
    assert [key for key, item in primary.items() if item.order is Phase.STATE][-1] == "mysql:read_only"


def test_what_is_asked_does_not_depend_on_who_leads() -> None:
    """The first look is made before anybody knows who leads, and its answers are used after."""

    def asked(ctx: Context) -> tuple[set[str], dict[str, str]]:
        queries: dict[str, Query] = {}
        paths = set()
        for item in mysql.desired(ctx):
            if isinstance(item, Parameter | Only):
                queries[item.query.id] = item.query
            elif isinstance(item, File):
                paths.add(item.path)
        return paths, {name: query.script for name, query in queries.items()}

    assert asked(context("data2", leads="data1")) == asked(context("data2", leads="data2"))


def test_restart_only_variables_have_no_hot_step() -> None:
    for item in by_key(context()).values():
        if isinstance(item, Parameter) and item.name.startswith("variable "):
            restart = item.name.removeprefix("variable ") in mysql.RESTART_ONLY
            assert (item.step is StepClass.RESTART) == restart == (not item.act)


def test_no_secret_in_a_process_argument() -> None:
    for host in ("data1", "data2"):
        for item in by_key(context(host)).values():
            if isinstance(item, Parameter):
                # Only a here-document may hold one.
                assert "secret of" not in item.act.partition("<<'SQL'")[0]
                assert "secret of" not in item.query.script


def test_files_of_sql_are_applied_in_order() -> None:
    assert next(iter(mysql.schema(context()))) == "services/001_reference.sql"
    assert all(mysql.repeatable(content) for content in mysql.schema(context()).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE TABLE IF NOT EXISTS a (b INT COMMENT 'x; DROP y');", True),
        ("-- a note; with DROP\n/* and; this */ create table if not exists a (b INT)", True),
        ("CREATE TABLE a (b INT);", False),
        ("CREATE TABLE IF NOT EXISTS a (b INT); INSERT INTO a VALUES (1);", False),
        ("ALTER TABLE a ADD c INT;", False),
        ("-- it's\nCREATE TABLE IF NOT EXISTS a (b INT COMMENT 'x -- y'); DROP TABLE c;", False),
        ("CREATE TABLE IF NOT EXISTS a (b INT); /*! DROP TABLE c */;", False),
    ],
)
def test_repeatable(text: str, expected: bool) -> None:
    assert mysql.repeatable(text.encode()) is expected


def answered(ctx: Context, values: Mapping[str, str]) -> list[str]:
    """Keys of the mysql steps that follow from these answers of a running server."""
    state = host_state(ctx)
    script = ["@@n query mysql", *(f"{name}\t{value}" for name, value in values.items()), "@@n rc 0", "@@n end"]
    seen = parse(ctx.host.name, script, "n", state.resources)
    mine = [item for item in state.resources if isinstance(item, Parameter | Only) and item.query.id == SERVER_QUERY]
    return [step.key for step in steps(replace(state, resources=tuple(mine)), seen, "")]


def wanted_values(ctx: Context) -> dict[str, str]:
    return {
        item.name: item.want
        for item in mysql.desired(ctx)
        if isinstance(item, Parameter) and item.query.id == SERVER_QUERY and item.want is not None
    }


@pytest.mark.parametrize("host", ["data1", "data2"])
def test_what_is_wanted_is_no_difference(host: str) -> None:
    values = wanted_values(context(host))
    assert answered(context(host), {**values, "account mariadb.sys@localhost": "no password, locked, expires"}) == []


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("account evil@%", "another password", "mysql:account evil@%"),
        ("account @localhost", "no password", "mysql:account @localhost"),
        ("role r", "present", "mysql:role r"),
        ("grants ghost@%", "*.*: SUPER", "mysql:grants ghost@%"),
        ("grants worker@10.0.0.31", "*.*: SUPER", "mysql:grants worker@10.0.0.31"),
        ("account root@localhost", "more than one way to log in", "mysql:account root@localhost"),
        ("test database", "present", "mysql:test database"),
        ("reader 10.0.0.19", "reads the log", "mysql:reader 10.0.0.19"),
        ("variable sync_binlog", "0", "mysql:sync_binlog"),
    ],
)
def test_each_drift_on_the_primary_is_named(name: str, value: str, key: str) -> None:
    assert answered(context(), {**wanted_values(context()), name: value}) == [key]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_shell_parses() -> None:
    tool = by_key(context())[f"file:{mysql.TOOL}"]
    assert isinstance(tool, File)
    role = by_key(context())[f"file:{mysql.ROLE_TOOL}"]
    assert isinstance(role, File)
    for script in (tool.content, role.content):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for host in ("data1", "data2"):
        for item in by_key(context(host)).values():
            if isinstance(item, Parameter | Only):
                for script in (item.act, item.query.script):
                    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
