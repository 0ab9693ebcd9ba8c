"""The database's port, which speaks before TLS begins, is asked and judged as every other: with a real server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.converge import certificates
from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Fleet, HostInput, build
from deploy.procedures.pki import canaries, verify
from deploy.procedures.pki.hosts import Seen
from deploy.trust.authorities import Authorities
from deploy.trust.certificates import describe
from tests.unit.frontend.fakes import HOST as LOOPBACK
from tests.unit.frontend.fakes import Mariadb
from tests.unit.frontend.support import FRONTEND, need
from tests.unit.pki.test_looking import NONCE, World, run, world

__all__ = ["world"]

FLEET: Fleet = build("test", {"app1": HostInput(frozenset({"mysql"}), {"ssh_hostname": "10.0.0.31"})})
DATA = FLEET.host("app1")
PORT = SERVICES["mysql"].port("mysql").number


@pytest.fixture
def server(world: World) -> Iterator[Mariadb]:
    need("mariadbd", "mariadb-server (without starting its service)")
    world.put("mysql", world.issue("mysql"))
    with tempfile.TemporaryDirectory(prefix="pki") as folder:
        schema = sorted((FRONTEND.parent / "services/sql").glob("*.sql")) + sorted((FRONTEND / "sql").glob("*.sql"))
        made = Mariadb(Path(folder), schema, os.geteuid() == 0)
        yield made
        made.stop()


def serve_tls(server: Mariadb, world: World) -> None:
    pair = (f"--ssl-cert={world.folder}/mysql.crt", f"--ssl-key={world.folder}/mysql.key")
    server.restart(f"--ssl-ca={world.folder}/ca.crt", f"--ssl-crl={world.folder}/ca.crl", *pair)


def found(server: Mariadb, world: World) -> str:
    """What is wrong with the port; empty if nothing is."""
    have, served = certificates.parse(
        "app1", run(world, certificates.script(DATA, NONCE, served=True), {PORT: server.port}), NONCE
    )
    seen = Seen({"app1": have}, {"app1": served})
    judged = verify.judge(FLEET, seen, Authorities.only(world.authority), {})
    return next(one.found for one in judged.ports if one.port == PORT)


def test_what_it_serves_is_compared_with_its_disk(world: World, server: Mariadb) -> None:
    assert found(server, world).startswith("nothing served"), "it was not restarted since it was told to serve TLS"
    serve_tls(server, world)
    assert found(server, world) == ""
    world.put("mysql", world.issue("mysql"))
    assert found(server, world).startswith("an old one is served")
    server.sql("FLUSH LOCAL SSL")
    assert found(server, world) == ""
    good, bad = (canaries.signed(world.signer, FLEET.name, f"a {kind} certificate") for kind in ("good", "revoked"))
    world.authority.revoke([describe(bad.certificate).serial], "superseded")
    world.signer.sign_list(365)
    world.files()
    server.sql("FLUSH LOCAL SSL")
    said = run(world, certificates.shows(DATA, [PORT], [good, bad], NONCE), {PORT: server.port})
    answers = certificates.parse_shown("app1", said, NONCE)
    assert answers == {("a good certificate", PORT): True, ("a revoked certificate", PORT): False}


def test_it_is_not_asked_where_its_tls_is_off() -> None:
    of = build("test", {"app1": HostInput(frozenset({"mysql"}), {"ssh_hostname": LOOPBACK, "mysql": {"tls": False}})})
    assert PORT not in [port.number for _, port in certificates.ports(of.host("app1"))]
    assert PORT in [port.number for _, port in certificates.ports(DATA)]
    assert SSL_DIR in certificates.script(DATA, NONCE, served=True)
