"""The services' connections and a real server that has no TLS yet, then has it, then wants it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaup_services.config import ClientTls, Mysql
from omegaup_services.database import DatabaseDown, Session
from omegaup_services.schema import Secret

from tests.unit.frontend.fakes import HOST, Mariadb, whole_mariadb
from tests.unit.services.servers import PASSWORD, Database, need
from tests.unit.services.support import Authority


@pytest.fixture(scope="module")
def one_server() -> Iterator[Mariadb]:
    need("mariadbd", "mariadb-install-db")
    with whole_mariadb("tls") as made:
        Database(made, {"omegaup.*": ("SELECT",)})
        yield made


@pytest.fixture
def server(one_server: Mariadb) -> Mariadb:
    one_server.plain("worker")
    return one_server


def serve_tls(server: Mariadb, ca: Authority, *more: str) -> None:
    pair = ca.issue("mysql")
    server.restart(f"--ssl-ca={ca.path}", f"--ssl-cert={pair.certificate}", f"--ssl-key={pair.key}", *more)


@pytest.fixture
def word(tmp_path: Path) -> Path:
    return tmp_path / "mysql.tls"


@pytest.fixture
def config(server: Mariadb, ca: Authority, word: Path) -> Mysql:
    pair = ca.issue("worker")
    tls = ClientTls(
        ca=ca.path, certificate=pair.certificate, key=pair.key, crl=ca.revoke(ca.issue("nobody")), insist_file=word
    )
    return Mysql(host=HOST, port=server.port, user="worker", password=Secret(PASSWORD), tls=tls)


def cipher(connection: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        return str(cursor.fetchone()[1])


def test_from_plain_text_to_certificates_in_one_session(
    server: Mariadb, ca: Authority, config: Mysql, word: Path
) -> None:
    word.write_text("preferred\n")
    session = Session(config)
    assert session.run(cipher) == ""
    serve_tls(server, ca)
    assert session.run(cipher) != "", "the connection that was lost is made anew with TLS"
    server.sql(
        f"ALTER USER worker@'{HOST}' REQUIRE SUBJECT '/CN=worker-1/OU=worker'; SET GLOBAL require_secure_transport = ON"
    )
    word.write_text("required\n")
    session.close()
    assert session.run(cipher) != ""
    session.close()


@pytest.mark.parametrize("said", ["required\n", "", None])
def test_who_insists_leaves_a_server_without_tls(config: Mysql, word: Path, said: str | None) -> None:
    if said is not None:
        word.write_text(said)
    with pytest.raises(DatabaseDown, match="offers no TLS"):
        Session(config).run(cipher)


def test_without_a_file_it_insists(config: Mysql) -> None:
    assert config.tls is not None
    with pytest.raises(DatabaseDown, match="offers no TLS"):
        Session(replace(config, tls=replace(config.tls, insist_file=None))).run(cipher)


def test_a_revoked_server_and_one_of_another_ca_are_left(
    server: Mariadb, ca: Authority, config: Mysql, word: Path, tmp_path: Path
) -> None:
    word.write_text("preferred\n")
    serve_tls(server, Authority(tmp_path / "other"))
    with pytest.raises(DatabaseDown):
        Session(config).run(cipher)
    serve_tls(server, ca)
    assert Session(config).run(cipher) != ""
    pair = replace(ca.issue("worker", "unused"), certificate=ca.folder / "mysql.pem")
    ca.revoke(pair)
    with pytest.raises(DatabaseDown):
        Session(config).run(cipher)
