"""Real servers on loopback, told by the roles' own shell: who may come in in each phase of a rotation."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest
import redis as redis_client

from deploy.model.fleet import Context
from deploy.model.secrets import Credential
from deploy.roles import mysql_access, redis, sentinel
from tests.unit.frontend.fakes import HOST, Mariadb, free_port, stop, wait_for_port
from tests.unit.roles.test_mysql import context as of_database
from tests.unit.roles.test_redis import context as of_redis

OLD, NEW = Credential("old-password", 0), Credential("new-password", 1)
PHASES = {"before": ((OLD,), OLD), "accept": ((OLD, NEW), OLD), "use": ((OLD, NEW), NEW), "drop": ((NEW,), NEW)}


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def in_phase(ctx: Context, phase: str, *names: str) -> Context:
    """The same host while these secrets are in a phase."""
    accepted, used = PHASES[phase]
    secret = ctx.secret

    def values(name: str) -> tuple[Credential, ...]:
        return accepted if name in names else (Credential(secret(name)),)

    return replace(ctx, accepted=values, secret=lambda name: used.value if name in names else secret(name))


def shell(script: str) -> str:
    done = subprocess.run(["sh", "-eu"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- Redis and Sentinel -------------------------------------------------------------------------------------------


class Redis:
    """A server with the users of a role's ACL file; `told` is what a look and an apply do of them."""

    def __init__(self, folder: Path, users: dict[str, str], admin: str, *options: str) -> None:
        self.port, self.folder, self.admin = free_port(), folder, admin
        self.file, self.options = folder / "users.acl", options
        self.write(users)
        self.start()

    def start(self) -> None:
        (self.folder / "server.conf").touch()
        command = ["redis-server", str(self.folder / "server.conf"), "--port", str(self.port), "--bind", HOST, "--dir",
                   str(self.folder), "--aclfile", str(self.file), *self.options]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port, self.process, 20)

    def write(self, users: dict[str, str]) -> None:
        self.file.write_text("".join(f"user {name} {rules}\n" for name, rules in users.items()))

    def cli(self) -> str:
        (self.folder / "auth").write_text(f"{self.admin}\n")
        return f"REDISCLI_AUTH=$(cat {self.folder / 'auth'}) redis-cli --no-auth-warning --user fleet -p {self.port}"

    def parameter(self) -> tuple[str, str]:
        """(question, act) of the running users, with the record in the test's folder."""
        item = redis.users("test", self.cli(), "redis.service", str(self.file))
        record = ("/var/lib/fleet/test.acl", str(self.folder / "record"))
        return item.query.script.replace(*record), item.act.replace(*record)

    def says(self) -> str:
        return shell(self.parameter()[0]).strip()

    def told(self) -> None:
        shell(self.parameter()[1])

    def takes(self, user: str, password: str) -> bool:
        try:
            self.connected(user, password)
        except redis_client.AuthenticationError:
            return False
        return True

    def connected(self, user: str, password: str) -> redis_client.Redis:
        client = redis_client.Redis(HOST, self.port, username=user, password=password, single_connection_client=True)
        client.ping()
        return client


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="two") as name:
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[Callable[..., Redis]]:
    need("redis-server", "redis-cli")
    made: list[Redis] = []

    def make(users: dict[str, str], admin: str, *options: str) -> Redis:
        made.append(Redis(folder, users, admin, *options))
        return made[-1]

    yield make
    for one in made:
        stop(one.process)


def test_a_redis_user_has_two_passwords_and_nobody_is_cut_off(server: Callable[..., Redis]) -> None:
    ctx = of_redis("data1")
    live = server(redis.acl(in_phase(ctx, "before", "redis/app"), "cache"), ctx.secret("redis/admin"))
    live.told()
    assert live.says() == f"users\tas in {live.file}"
    client = live.connected("app", OLD.value)
    taken = {}
    for phase in PHASES:
        live.write(redis.acl(in_phase(ctx, phase, "redis/app"), "cache"))
        if phase == "accept":
            assert live.says().startswith("users\tdiffer")
        live.told()
        assert live.says() == f"users\tas in {live.file}", phase
        taken[phase] = (live.takes("app", OLD.value), live.takes("app", NEW.value))
        assert client.ping(), "a connection is not cut when passwords change"
    assert taken == {"before": (True, False), "accept": (True, True), "use": (True, True), "drop": (False, True)}
    # After a start the server lists the same rules in other words; that is no difference.
    stop(live.process)
    live.start()
    assert live.says() == f"users\tas in {live.file}"


def test_a_user_that_nobody_declares_is_removed_and_a_wrong_rule_is_an_error(server: Callable[..., Redis]) -> None:
    ctx = of_redis("data1")
    live = server(redis.acl(ctx, "cache"), ctx.secret("redis/admin"))
    live.told()
    shell(f"{live.cli()} ACL SETUSER eve on nopass '~*' +@all >/dev/null")
    assert live.says() == "users\tdiffer: eve"
    live.told()
    assert live.says() == f"users\tas in {live.file}"
    live.file.write_text(live.file.read_text() + "user eve on such-a-rule\n")
    done = subprocess.run(["sh", "-eu"], input=live.parameter()[1], text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert "such-a-rule" in done.stdout
    stop(live.process)
    done = subprocess.run(["sh", "-eu"], input=live.parameter()[1], text=True, capture_output=True, check=False)
    assert done.returncode != 0, "a server that is not there is told nothing"


def test_the_deployments_own_password_changes_under_its_feet(server: Callable[..., Redis]) -> None:
    ctx = of_redis("data1")
    live = server(redis.acl(in_phase(ctx, "before", "redis/admin"), "cache"), OLD.value)
    for phase, (_, used) in PHASES.items():
        live.admin = used.value
        live.write(redis.acl(in_phase(ctx, phase, "redis/admin"), "cache"))
        live.told()
        assert live.says() == f"users\tas in {live.file}", phase


def test_sentinels_come_to_one_another_with_the_new_password(server: Callable[..., Redis], folder: Path) -> None:
    ctx = of_redis("data1")
    (folder / "server.conf").write_text(f"sentinel sentinel-user peer\nsentinel sentinel-pass {OLD.value}\n")
    live = server(sentinel.acl(in_phase(ctx, "before", "sentinel/peer")), ctx.secret("redis/admin"), "--sentinel")
    for phase in PHASES:
        changed = in_phase(ctx, phase, "sentinel/peer")
        live.write(sentinel.acl(changed))
        live.told()
        item = sentinel.peer(changed, live.cli())
        found = shell(item.query.script).strip()
        assert (found == f"password\t{item.want}") == (phase != "use"), phase
        shell(item.act)
        assert shell(item.query.script).strip() == f"password\t{item.want}"
        assert item.want == hashlib.sha256(changed.secret("sentinel/peer").encode()).hexdigest()
        assert live.takes("peer", changed.secret("sentinel/peer"))
    assert not live.takes("peer", OLD.value)


# -- MariaDB ------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(folder: Path) -> Iterator[Mariadb]:
    need("mariadbd", "mariadb-install-db")
    schema = sorted((Path(__file__).resolve().parents[3] / "files/frontend").glob("sql/*"))
    live = Mariadb(folder, schema, os.geteuid() == 0)
    yield live
    live.stop()


def enters(database: Mariadb, password: str) -> bool:
    with suppress(pymysql.err.OperationalError):
        pymysql.connect(host=HOST, port=database.port, user="grader", password=password).close()
        return True
    return False


def test_a_database_account_has_two_passwords(database: Mariadb) -> None:
    plain = of_database("data1")
    login = next(one for one in mysql_access.logins(plain) if one.user == "grader")
    taken = {}
    for phase in PHASES:
        ctx = in_phase(plain, phase, "mysql/grader")
        assert account(database, ctx, login.name) != "password as declared" or phase == "use", phase
        declared = mysql_access.declared(login, mysql_access.kept(ctx, login.secret))
        database.sql(declared)
        assert account(database, ctx, login.name) == "password as declared", phase
        database.sql(declared.replace(login.address, HOST))
        taken[phase] = (enters(database, OLD.value), enters(database, NEW.value))
    assert taken == {"before": (True, False), "accept": (True, True), "use": (True, True), "drop": (False, True)}
    assert not enters(database, "another")
    database.sql(f"ALTER USER {login.sql} IDENTIFIED VIA mysql_native_password USING PASSWORD('a') OR unix_socket")
    assert account(database, in_phase(plain, "accept", "mysql/grader"), login.name) == "more than one way to log in"


def account(database: Mariadb, ctx: Context, name: str) -> str:
    """What a look says of an account."""
    text = ctx.render(
        "mysql/look.sql.j2", variables=["'SERVER_ID'"], database="omegaup", accounts=mysql_access.digests(ctx),
        declared=[mysql_access.literal(one.name) for one in mysql_access.logins(ctx)],
    )  # fmt: skip
    lines = dict(line.split("\t", 1) for line in database.sql(text).splitlines() if "\t" in line)
    return lines.get(f"account {name}", "none")
