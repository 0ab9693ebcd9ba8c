"""The thief of the chaos suites, against real servers with the accounts that the roles declare: it finds what it has
the password of, and says rightly what that may do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.roles import redis
from tests.chaos import thief
from tests.unit.frontend.fakes import HOST, Mariadb, free_port, stop, wait_for_port
from tests.unit.frontend.support import FRONTEND
from tests.unit.roles.test_frontend import context

SCHEMA = sorted((FRONTEND.parent / "services/sql").glob("*.sql")) + sorted((FRONTEND / "sql").glob("*.sql"))
FOUND = ("redis/app", "redis/proxy")


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    ctx, port = context("data1"), free_port()
    accounts = tmp_path / "users.acl"
    accounts.write_text("".join(f"user {name} {rules}\n" for name, rules in redis.acl(ctx, "cache").items()))
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--aclfile", str(accounts),
         "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_port(port, process)
    yield port
    stop(process)


def test_redis(redis_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context("data1")
    monkeypatch.setattr(thief, "place", lambda *_: (HOST, redis_port))
    users = list(redis.acl(ctx, "cache"))
    orders = {"redis": {"cache": users}, "passwords": [ctx.secret(name) for name in FOUND]}
    found = thief._redis(orders)
    assert set(found) == {"cache app", "cache proxy"}
    assert {what: said for tries in found.values() for what, said in tries.items() if said != thief.REFUSED} == {}
    admin = ["redis-cli", "-h", HOST, "-p", str(redis_port), "--user", "fleet", "--no-auth-warning"]
    for user in ("app", "proxy", "fleet"):
        for command in thief.DESTRUCTIVE:
            said = subprocess.run(
                [*admin, "ACL", "DRYRUN", user, *command.split()], text=True, capture_output=True, check=True,
                env={**os.environ, "REDISCLI_AUTH": ctx.secret("redis/admin")},
            ).stdout  # fmt: skip
            assert ("OK" in said) if user == "fleet" else ("no permissions" in said), (user, command, said)
    # The twin: the deployment's own user may all of it.
    every = thief._redis(orders | {"passwords": [ctx.secret("redis/admin")]})
    assert set(every) == {"cache fleet"}
    refused = {what for what, said in every["cache fleet"].items() if said == thief.REFUSED}
    assert refused <= {"load a module", "make it sleep"}, "which the server refuses to everybody"


def test_mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("mariadbd") is None:
        pytest.skip("mariadbd is not installed")
    with tempfile.TemporaryDirectory(prefix="thief") as directory:
        server = Mariadb(Path(directory), SCHEMA, os.geteuid() == 0)
        try:
            server.sql(
                f"CREATE USER omegaup@'{HOST}' IDENTIFIED BY 'found'; CREATE USER other@'{HOST}' IDENTIFIED BY 'x'"
            )
            server.sql(f"GRANT SELECT, INSERT ON omegaup.* TO omegaup@'{HOST}'")
            server.sql(f"CREATE USER boss@'{HOST}' IDENTIFIED BY 'found'; GRANT ALL ON *.* TO boss@'{HOST}'")
            monkeypatch.setattr(thief, "place", lambda *_: (HOST, server.port))
            orders = {"users": ["omegaup", "other", "boss", "nobody"], "statements": thief.statements("omegaup")}
            found = thief._mysql({"passwords": ["found"], "mysql": orders})
        finally:
            server.stop()
    assert set(found) == {"omegaup", "boss"}
    assert {what: said for what, said in found["omegaup"]["tries"].items() if said != thief.REFUSED} == {}
    assert {what for what, said in found["boss"]["tries"].items() if said == thief.REFUSED} <= {
        "GRANT SELECT ON *.* TO CURRENT_USER"  # to itself, without GRANT OPTION
    }
    assert any("SELECT, INSERT" in grant for grant in found["omegaup"]["grants"])
