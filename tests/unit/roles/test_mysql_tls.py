"""When plain text is shut out of the database, in which order, and what that makes of members and clients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import desired
from deploy.converge.compare import steps
from deploy.converge.desired import host_state
from deploy.converge.engine import Run
from deploy.model.fleet import Context, Live
from deploy.model.observed import Answer, FileState, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import Certificate, File, Parameter, Phase, Resource, StepClass, Unit
from deploy.procedures.roll.order import debts
from deploy.roles import mysql, mysql_access, mysql_tls
from deploy.roles.mysql_members import FILES_QUERY, SERVER_QUERY, clusters, standings
from deploy.trust.certificates import LeafProfile
from tests.unit.roles.test_mysql import HOSTS, context

UNIT = "mariadb.service"
GRADER, WORKER = "omegaup-grader.service", "omegaup-worker@certificates.service"
SERVED: dict[str, Any] = {"variable ssl_cert": mysql_tls.CERTIFICATE}


def state(active: str = "active", **stamps: str) -> UnitState:
    return UnitState(
        "loaded", active, "running", "enabled", False, 1, 1, {f"/{name}": of for name, of in stamps.items()}
    )


def file(content: str) -> FileState:
    return FileState("file", "root", "root", 0o644, hashlib.sha256(content.encode()).hexdigest())


def member(first: bool = False, *, active: str = "active", answers: bool = True, **values: str) -> Snapshot:
    follows = "" if first else "10.0.0.11"
    said = {"variable read_only": "OFF" if first else "ON", "follows": follows, **values}
    server = Answer(said) if answers else Answer({}, "not running")
    files = Answer({"origin": "primary" if first else "seeded 10.0.0.11", "follows": follows})
    return Snapshot(
        "x", HostFactsSeen("debian", "12", 1, 1), units={UNIT: state(active)},
        answers={SERVER_QUERY: server, FILES_QUERY: files},
    )  # fmt: skip


def client(word: str | None, services: tuple[str, ...], units: Mapping[str, UnitState], **files: str) -> Snapshot:
    found = {f"/{name}": FileState("file", "root", "root", 0o644, of) for name, of in files.items()}
    if word is not None:
        found |= {mysql_tls.insist_file(service): file(word) for service in services}
    return Snapshot("x", HostFactsSeen("debian", "12", 1, 1), files=found, units=units)


def fleet(**other: Snapshot | None) -> dict[str, Snapshot]:
    """All serve TLS and prefer it, but for these; None: not looked at."""
    seen: dict[str, Snapshot | None] = {
        "data1": member(first=True, **SERVED), "data2": member(**SERVED), "data3": member(**SERVED),
        "web1": client("preferred\n", ("frontend",), {"php8.2-fpm.service": state(config="a")}, config="a"),
        "app1": client("preferred\n", ("grader", "worker"), {GRADER: state(config="a")}, config="a"),
        **other,
    }  # fmt: skip
    return {name: one for name, one in seen.items() if one is not None}


def shut(seen: Mapping[str, Snapshot], **data: Any) -> bool:
    return clusters(context(**data), seen)["mysql"].encrypted


APP = ("grader", "worker")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param({}, True, id="all serve it and all prefer it"),
        pytest.param({"data3": member()}, False, id="a member has not been restarted"),
        pytest.param({"data3": member(answers=False, **SERVED)}, False, id="a member hangs"),
        pytest.param({"data3": member(active="inactive", answers=False)}, True, id="a member will start with it"),
        pytest.param({"web1": None}, False, id="a client's host was not looked at"),
        pytest.param({"app1": client(None, APP, {GRADER: state(config="a")}, config="a")}, False, id="an old release"),
        pytest.param(
            {"app1": client("preferred\n", APP, {GRADER: state(config="a")}, config="b")}, False, id="owed a restart"
        ),
        pytest.param({"app1": client("preferred\n", APP, {GRADER: state()})}, False, id="nobody knows what it loaded"),
        pytest.param({"app1": client("off\n", APP, {GRADER: state(config="a")}, config="a")}, False, id="it was off"),
        pytest.param({"app1": client(None, APP, {GRADER: state("failed")})}, True, id="a client does not run"),
        pytest.param({"app1": client(None, APP, {})}, True, id="a client's host is new"),
        pytest.param(
            {"app1": client("preferred\n", APP, {GRADER: state(config="a"), WORKER: state(config="b")}, config="a")},
            False,
            id="one of a host's clients is owed a restart",
        ),
    ],
)
def test_when_plain_text_can_be_shut_out(other: dict[str, Snapshot | None], expected: bool) -> None:
    assert shut(fleet(**other)) is expected


def test_what_is_shut_stays_shut_whoever_is_away() -> None:
    """Or a member that is down, or a run limited to one host, would let plain text in again."""
    accounts: dict[str, Any] = {"requires grader@10.0.0.31": "only /O=test/OU=grader/CN=grader"}
    assert shut(fleet(data1=member(first=True, **accounts), data3=member(answers=False), web1=None, app1=None))
    assert shut(fleet(data2=member(**accounts), web1=None)), "a replica's word will do: accounts replicate"
    assert not shut(fleet(data2=member(**accounts)), mysql={"tls": False})
    nothing: dict[str, Any] = {"requires root@localhost": "nothing", **SERVED}
    assert not shut(fleet(web1=None, data1=member(first=True, **nothing)))


def test_a_new_fleet_is_shut_from_the_beginning() -> None:
    assert "mysql" in Live.first_boot(context().fleet).encrypted


# -- what that makes of members ----------------------------------------------------------------------------


def resources(host: str, *, encrypted: bool = True, **data: Any) -> dict[str, Resource]:
    return {item.key: item for item in host_state(at(host, encrypted=encrypted, **data)).resources}


def at(host: str, *, encrypted: bool = True, **data: Any) -> Context:
    found = context(host, **data)
    return replace(found, live=replace(found.live, encrypted=frozenset({"mysql"} if encrypted else ())))


def parameters(found: Mapping[str, Resource], prefix: str) -> dict[str, Parameter]:
    return {
        item.name.removeprefix(prefix): item
        for item in found.values()
        if isinstance(item, Parameter) and item.name.startswith(prefix)
    }


def test_accounts_want_the_certificate_of_their_role_and_only_in_the_end() -> None:
    found = parameters(resources("data1"), "requires ")
    wanted = {
        "omegaup@10.0.0.21": "frontend", "grader@10.0.0.31": "grader", "worker@10.0.0.31": "worker",
        **{f"{user}@10.0.0.1{n}": "mysql" for user in ("replica", "seed") for n in (1, 2, 3)},
    }  # fmt: skip
    assert set(found) == {*wanted, "mysql@localhost", "prometheus@localhost"}
    for name, role in wanted.items():
        subject = LeafProfile(common_name=role, role=role, organization="test", client_auth=True).subject_slash
        assert found[name].want == f"only {subject}"
        assert subject in found[name].act
        assert found[name].order is Phase.LAST, "after every replica comes by TLS"
    assert found["mysql@localhost"].want == "nothing", "it comes by the socket"


def test_what_is_wanted_no_more_is_taken_back_first() -> None:
    for more in ({"encrypted": False}, {"mysql": {"tls": False}}):
        found = resources("data1", **more)
        required = parameters(found, "requires ")
        assert {item.want for item in required.values()} == {"nothing"}
        assert {item.order for item in required.values()} == {Phase.STATE}
        secure = parameters(found, "variable ")["require_secure_transport"]
        assert (secure.want, secure.order) == ("OFF", Phase.STATE)


def test_a_password_is_set_without_touching_what_the_account_wants() -> None:
    """Or a rotation would let plain text in for a moment."""
    for name, item in parameters(resources("data1"), "account ").items():
        assert "REQUIRE" not in item.act, name


def test_files_of_tls_take_a_restart_and_the_rest_is_hot() -> None:
    found = parameters(resources("data2"), "variable ")
    restart = {name for name, item in found.items() if item.step is StepClass.RESTART}
    assert {"ssl_ca", "ssl_cert", "ssl_key", "ssl_crl", "ssl_cipher", "tls_version"} <= restart
    assert found["require_secure_transport"].step is StepClass.HOT
    assert found["require_secure_transport"].order is Phase.LAST


@pytest.mark.parametrize("host", ["data1", "data2"])
def test_a_member_without_tls_is_owed_a_restart_and_nothing_is_shut_before(host: str) -> None:
    """As a fleet of an earlier release is planned: files, and what `roll` is to do. No account is touched."""
    desired = at(host, encrypted=False)
    plain = {"ssl_ca": "", "ssl_cert": "", "ssl_key": "", "ssl_crl": "", "ssl_cipher": ""}
    state_ = host_state(desired)
    # Its certificates would take a CA to be compared with.
    state_ = replace(state_, resources=tuple(one for one in state_.resources if not isinstance(one, Certificate)))
    said = {f"variable {name}": plain.get(name, value) for name, value in mysql.variables(desired).items()}
    said |= {f"requires {one.name}": "nothing" for one in mysql_access.logins(desired)}
    seen = Snapshot(
        host, HostFactsSeen("debian", "12", 1, 1), units={UNIT: state()}, answers={SERVER_QUERY: Answer(said)}
    )
    found = [
        step
        for step in steps(state_, seen, "CA")
        if isinstance(step.resource, Parameter) and step.resource.name.startswith(("variable", "requires"))
    ]
    owed = {step.resource.name for step in found if step.pending}  # type: ignore[attr-defined]
    assert owed == {f"variable {name}" for name in plain}
    unopened = {"variable read_only", "variable event_scheduler"} if host == "data1" else set()
    assert {step.resource.name for step in found if not step.pending} == unopened  # type: ignore[attr-defined]
    (debt,) = debts({host: found}, {host: tuple(mysql.ways(desired))})
    assert debt.units == (UNIT,)


def test_replicas_come_by_tls_and_verify_their_primary() -> None:
    found = parameters(resources("data2"), "replication")
    assert found[""].want == "from 10.0.0.11:3306 as replica by Slave_Pos over TLS"
    tools = [item for item in resources("data2").values() if isinstance(item, File) and "mysql-role" in item.path]
    for one in (*tools, *(item for item in resources("data2").values() if getattr(item, "path", "") == mysql.TOOL)):
        assert isinstance(one, File)
        assert "MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 1" in one.content
    assert parameters(resources("data2", encrypted=False), "replication")[""].want == (
        "from 10.0.0.11:3306 as replica by Slave_Pos"
    )


def test_members_ask_one_another_by_tls() -> None:
    def text(**more: Any) -> str:
        item = resources("data2", **more)[f"file:{mysql.SEED_FILE}"]
        assert isinstance(item, File)
        return item.content

    assert "ssl-verify-server-cert" in text()
    assert "ssl" not in text(encrypted=False)


def test_a_new_pair_is_loaded_by_a_reload_that_fails_before_it_is_stamped() -> None:
    found = resources("data1")
    unit = found[f"unit:{UNIT}"]
    assert isinstance(unit, Unit)
    assert mysql_tls.CERTIFICATE in unit.reload_files
    folder = f"/etc/systemd/system/{UNIT}.d"
    reloads = {key.removeprefix(f"file:{folder}/") for key in found if key.startswith(f"file:{folder}/")}
    assert min(reloads) == "40-fleet-reload.conf"
    item = found[f"file:{folder}/40-fleet-reload.conf"]
    assert isinstance(item, File)
    assert "FLUSH LOCAL SSL" in item.content, "without LOCAL a replica would have a transaction of its own"
    off = resources("data1", mysql={"tls": False})
    assert off[f"file:{folder}/40-fleet-reload.conf"].absent  # type: ignore[attr-defined]
    assert off[f"unit:{UNIT}"].reload_files == ()  # type: ignore[attr-defined]


# -- and of clients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encrypted", "tls", "word"), [(True, True, "required\n"), (False, True, "preferred\n"), (True, False, "off\n")]
)
def test_what_clients_are_told(encrypted: bool, tls: bool, word: str) -> None:
    for service in mysql_tls.CLIENTS:
        host = next(name for name, (_, groups) in HOSTS.items() if service in groups)
        item = mysql_tls.insists(at(host, encrypted=encrypted, mysql={"tls": tls}), service)
        assert (item.path, item.content) == (f"/etc/omegaup/{service}/mysql.tls", word)
        assert bool(mysql_tls.client(at(host, mysql={"tls": tls}), service)) is tls


def test_that_word_comes_after_all_that_makes_a_client_prefer_tls() -> None:
    """A run that ends in between must not look as if the rest had been written: the word says that it was."""
    for host, services in (("web1", ("frontend",)), ("app1", ("grader", "worker"))):
        keys = [item.key for item in host_state(at(host)).resources]
        for service in services:
            word = keys.index(f"file:{mysql_tls.insist_file(service)}")
            config = (
                "config.php" if service == "frontend" else "certificates.json" if service == "worker" else "config.json"
            )
            assert keys.index(f"file:/etc/omegaup/{service}/{config}") < word
            code = "frontend: release" if service == "frontend" else "services: release"
            assert keys.index(code) < word


def test_what_a_run_could_not_shut_at_its_beginning_it_leaves_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its second look, by which every member serves TLS, would want what was not in its plan."""
    keys: Any = SimpleNamespace(vault=SimpleNamespace(values=list))
    shut_by_then = iter([frozenset(), frozenset({"mysql"})])
    monkeypatch.setattr(desired, "live", lambda *_: Live({"mysql": "data1"}, encrypted=next(shut_by_then)))
    run = Run(context().fleet, Path(), keys, {}, frozenset())
    for _ in range(2):
        run.look_all()
        assert run.live.encrypted == frozenset()


def test_status_says_who_takes_plain_text_though_it_is_not_to() -> None:
    seen = fleet(data3=member(**{**SERVED, "variable require_secure_transport": "OFF"}))
    said = {one.host: one.detail for one in standings(context(), seen)}
    assert said["data3"].endswith(", takes plain text")
    assert "plain text" not in said["data2"]
    assert "plain" not in "".join(one.detail for one in standings(context(mysql={"tls": False}), seen))
