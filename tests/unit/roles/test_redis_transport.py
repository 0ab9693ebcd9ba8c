"""A running Redis is changed to TLS and back by the deployment's own scripts: real servers, other ports and folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.errors import FleetErrors
from deploy.model.checks import check
from deploy.model.cleartext import cleartext
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.resources import Parameter, Query
from deploy.procedures import transport
from deploy.roles import redis, redis_transport
from deploy.roles.redis_cli import ADMIN_FILE, caller, client, otherwise
from tests.unit.roles.test_redis import context

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here")
SECRET = "secret-of-redis-admin"
LIMIT = 20.0


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def issue(folder: Path, name: str, kind: str = "ec -pkeyopt ec_paramgen_curve:P-256") -> None:
    """A pair by the CA of this folder, which is made if it is not there."""

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    if not (folder / "ca.crt").exists():
        openssl(f"req -x509 -newkey {kind} -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca")
    (folder / "names").write_text("subjectAltName=DNS:data1,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(f"req -newkey {kind} -nodes -keyout {name}.key -out {name}.csr -subj /OU={name}/CN={name}")
    openssl(f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out {name}.crt -extfile names")


class Server:
    """One member, whose own ports and folders take the place of the deployment's in every script."""

    def __init__(self, folder: Path, host: str, primary: Server | None = None) -> None:
        self.folder, self.host, self.port, self.local = folder, host, free(), free()
        for name in ("etc", "data", "state", "ssl"):
            (folder / name).mkdir(parents=True)
        issue(folder / "ssl", "redis")
        if primary:
            shutil.rmtree(folder / "ssl")
            shutil.copytree(primary.folder / "ssl", folder / "ssl")
        (folder / "auth").write_text(SECRET)
        self.asks(False)
        (folder / "etc/state.conf").write_text(f"replicaof 127.0.0.1 {primary.port}\n" if primary else "")
        (folder / "etc/users.acl").write_text(
            "".join(f"user {name} {rules}\n" for name, rules in redis.acl(self.ctx, "cache").items())
        )
        self.process = subprocess.Popen(
            ["redis-server", str(folder / "etc/state.conf"), "--bind", "127.0.0.1", "--port", str(self.port), "--dir",
             str(folder / "data"), "--aclfile", str(folder / "etc/users.acl"), "--masteruser", "replica",
             "--masterauth", "secret-of-redis-replica", "--repl-diskless-sync-delay", "0", "--save", ""],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def asks(self, tls: bool) -> None:
        """From now on the settings want this."""
        self.ctx: Context = context(self.host, redis={"tls": tls})

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        for old, new in (
            (ADMIN_FILE, f"{self.folder}/auth"), ("/etc/omegaup/ssl", f"{self.folder}/ssl"),
            ("/var/lib/fleet", f"{self.folder}/state"), ("/etc/redis/cache", f"{self.folder}/etc"),
            ("16379", "LOCAL"), ("6379", str(self.port)), ("LOCAL", str(self.local)),
        ):  # fmt: skip
            script = script.replace(old, new)
        return subprocess.run(["sh", "-euc", script], text=True, capture_output=True, check=False, timeout=60)

    def look(self) -> dict[str, str]:
        found = self.run(redis.query(self.ctx, "cache").script)
        assert found.returncode == 0, found.stdout + found.stderr
        return dict(line.split("\t", 1) for line in found.stdout.splitlines())

    def item(self, label: str) -> Parameter:
        every = [*redis.desired(self.ctx), *redis_transport.desired(self.ctx)]
        return next(item for item in every if isinstance(item, Parameter) and item.key == f"redis-cache: {label}")

    def differs(self, label: str) -> bool:
        item = self.item(label)
        have = self.look()[item.name].replace(str(self.local), "16379").replace(str(self.port), "6379")
        return have.replace(f"{self.folder}/ssl", "/etc/omegaup/ssl") != item.want

    def act(self, label: str) -> None:
        done = self.run(self.item(label).act)
        assert done.returncode == 0, done.stdout + done.stderr

    def cli(self, *words: str) -> str:
        return self.run(f"{client(self.ctx.host, 'cache')} {' '.join(words)}").stdout.strip()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    primary = Server(tmp_path / "1", "data1")
    replica = Server(tmp_path / "2", "data2", primary)
    try:
        until(lambda: "master_link_status:up" in replica.cli("INFO", "replication"))
        yield primary, replica
    finally:
        replica.end()
        primary.end()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_fleet_is_turned_to_tls_and_back_while_it_runs(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    with socket.create_connection(("127.0.0.1", primary.port)) as client_:
        client_.sendall(b"AUTH fleet %s\r\n" % SECRET.encode())
        assert client_.recv(100) == b"+OK\r\n"
        for tls in (True, False, True):
            for one in pair:
                one.asks(tls)
                assert one.differs("transport"), tls
            full = primary.cli("INFO", "stats").count("sync_full:1")
            time.sleep(1.1)
            for one in pair:
                one.act("transport")
                assert not one.differs("transport")
            client_.sendall(b"SET k %d\r\n" % tls)
            assert client_.recv(100) == b"+OK\r\n", "what was connected stays so"
            assert primary.differs("links of replicas")
            assert not replica.differs("links of replicas"), "it has none"
            time.sleep(1.1)
            primary.act("links of replicas")
            until(lambda: "state=online" in primary.cli("INFO", "replication"))
            assert not primary.differs("links of replicas")
            assert primary.cli("INFO", "stats").count("sync_full:1") == full, "they went on where they were"
            assert replica.cli("GET", "k") == str(int(tls))
            assert "master_link_status:up" in replica.cli("INFO", "replication")
            # As others dial it, and who dials it in the other way.
            there = caller(primary.ctx.host, "cache", "127.0.0.1")
            assert primary.run(f"{there} PING").stdout.strip() == "PONG"
            assert primary.run(otherwise(primary.ctx.host, "cache", "127.0.0.1")).returncode != 0
            assert (
                primary.run(otherwise(context("data1", redis={"tls": not tls}).host, "cache", "127.0.0.1")).returncode
                == 0
            )


def test_with_tls_nobody_is_answered_without_a_certificate(pair: tuple[Server, Server]) -> None:
    primary, _ = pair
    primary.asks(True)
    primary.act("transport")
    ca = primary.folder / "ssl/ca.crt"
    words = ["redis-cli", "-h", "127.0.0.1", "-p", str(primary.port)]
    environment = {key: value for key, value in os.environ.items() if key != "REDISCLI_AUTH"}

    def said(*more: str) -> str:
        done = subprocess.run([*words, *more, "PING"], env=environment, text=True, capture_output=True, timeout=10,
                              check=False)  # fmt: skip
        return done.stdout

    assert "NOAUTH" not in said()
    assert "NOAUTH" not in said("--tls", "--cacert", str(ca))
    own = ("--cert", str(primary.folder / "ssl/redis.crt"), "--key", str(primary.folder / "ssl/redis.key"))
    assert "NOAUTH" in said("--tls", "--cacert", str(ca), *own)


def test_another_certificate_is_loaded_while_it_runs(pair: tuple[Server, Server]) -> None:
    primary, _ = pair
    primary.asks(True)
    primary.act("transport")
    primary.act("certificate")
    assert not primary.differs("certificate")

    def served() -> str:
        ssl = primary.folder / "ssl"
        return subprocess.run(
            f"openssl s_client -connect 127.0.0.1:{primary.port} -CAfile {ssl}/ca.crt -cert {ssl}/redis.crt "
            f"-key {ssl}/redis.key </dev/null 2>/dev/null | openssl x509 -noout -serial",
            shell=True, text=True, capture_output=True, check=True,
        ).stdout  # fmt: skip

    before = served()
    issue(primary.folder / "ssl", "redis")
    assert primary.differs("certificate")
    assert served() == before
    primary.act("certificate")
    assert not primary.differs("certificate")
    assert served() != before


def test_a_pair_that_does_not_match_is_refused_and_stays_due(pair: tuple[Server, Server]) -> None:
    primary, _ = pair
    primary.asks(True)
    primary.act("transport")
    primary.act("certificate")
    issue(primary.folder / "ssl", "other")
    shutil.copy(primary.folder / "ssl/other.crt", primary.folder / "ssl/redis.crt")
    assert primary.run(primary.item("certificate").act).returncode != 0
    assert primary.differs("certificate")
    assert primary.cli("PING") == "PONG"


def test_one_question_for_all_that_is_known_of_an_instance() -> None:
    """The look asks each query once, by its name: both roles have to mean the same."""
    ctx = context("data2")
    queries = {
        item.query
        for item in (*redis.desired(ctx), *redis_transport.desired(ctx))
        if isinstance(item, Parameter) and item.query.id == "redis-cache"
    }
    assert len(queries) == 1
    assert isinstance(next(iter(queries)), Query)


def test_a_fleet_has_one_way() -> None:
    hosts = {
        name: HostInput(frozenset({"redis", "sentinel"}), {"ssh_hostname": f"10.0.0.1{number}"})
        for number, name in enumerate(("data1", "data2", "data3"))
    }
    hosts["data2"] = replace(hosts["data2"], data={**hosts["data2"].data, "redis": {"tls": False}})
    with pytest.raises(FleetErrors, match=r"redis\.tls"):
        check(build("test", hosts))


def test_a_plan_warns_of_what_crosses_the_network_in_the_clear() -> None:
    assert cleartext(context(redis={"tls": True}).fleet) == []
    assert [service for service, _ in cleartext(context(redis={"tls": False}).fleet)] == ["redis"]
    off = {"rabbitmq": {"tls": False, "inter_node_tls": False}, "mysql": {"tls": False}}
    others = {name: HostInput(frozenset({"rabbitmq", "mysql"}), {"ssh_hostname": f"10.0.0.{number}", **off})
              for number, name in enumerate(("data1", "data2"), 1)}  # fmt: skip
    assert [service for service, _ in cleartext(build("test", others))] == ["rabbitmq", "rabbitmq", "mysql"]
    alone = build("test", {"one": HostInput(frozenset({"redis", "frontend"}), {"ssh_hostname": "10.0.0.1",
                                                                              "redis": {"tls": False}})})  # fmt: skip
    assert cleartext(alone) == [], "nothing leaves the host"


def refused(targets: set[str], live: Live | None = None) -> str:
    """What apply says to a plan in which one member changes, in a run of these hosts."""
    fleet = context().fleet
    leads = {"redis-cache": "data1", "redis-sessions": "data1"}
    step = SimpleNamespace(role="redis-transport", before="port=6379, tls-port=0", after="port=16379, tls-port=6379")
    run = SimpleNamespace(fleet=fleet, targets=frozenset(targets), live=live or Live(leads, frozenset(leads)))
    try:
        transport.whole(cast(Any, run), {"data1": [cast(Any, step)]})
    except FleetErrors as error:
        return str(error)
    return ""


def test_a_change_is_of_all_members_and_their_clients_or_of_none() -> None:
    everybody = {"data1", "data2", "data3", "web1"}
    assert refused(everybody) == ""
    assert "not on web1" in refused(everybody - {"web1"})
    assert "not on data2, web1" in refused({"data1", "data3"})
    run = SimpleNamespace(fleet=context().fleet, targets=frozenset({"data1"}))
    by_hand = SimpleNamespace(
        role="redis-transport", before="tls-auth-clients=no, tls-port=6379", after="tls-auth-clients=yes, tls-port=6379"
    )
    transport.whole(cast(Any, run), {"data1": [cast(Any, by_hand)]})


def test_a_new_member_does_not_join_in_the_midst_of_it() -> None:
    leads = {"redis-cache": "data1", "redis-sessions": "data1"}
    live = Live(leads, frozenset(leads), {"redis-cache": frozenset({"data3"})})
    assert "new members: data3" in refused({"data1", "data2", "data3", "web1"}, live)
