"""The frontend and a real server that has no TLS yet, then has it, then wants it: no request fails on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.frontend.fakes import HOST, Authority, Mariadb, whole_mariadb
from tests.unit.frontend.support import Site, World, need

CIPHER = "print_r(OmegaUp\\MySQLConnection::getInstance()->select(\"SHOW STATUS LIKE 'Ssl_cipher'\")[0]['Value']);"
REFUSED = (
    "try { OmegaUp\\MySQLConnection::getInstance(); echo 'taken'; } catch (mysqli_sql_exception $e) { echo 'left'; }"
)


@pytest.fixture(scope="module")
def one_server(php: str) -> Iterator[Mariadb]:
    need("mariadbd", "mariadb-server (without starting its service)")
    with whole_mariadb("tls") as server:
        yield server


@pytest.fixture
def server(one_server: Mariadb) -> Mariadb:
    one_server.plain("frontend")
    return one_server


def serve_tls(server: Mariadb, authority: Authority, address: str = HOST) -> None:
    certificate, key = authority.server("mysql", address)
    ca = authority.directory
    server.restart(
        f"--ssl-ca={ca}/ca.crt", f"--ssl-crl={ca}/ca.crl", f"--ssl-cert={certificate}", f"--ssl-key={key}",
        "--tls-version=TLSv1.2,TLSv1.3",
    )  # fmt: skip


@pytest.fixture
def word(world: World, server: Mariadb) -> Path:
    """The file that says whether the frontend insists; the world's constants lead to the server."""
    world.authority.client()
    path = world.directory / "mysql.tls"
    world.constants |= {
        "OMEGAUP_DB_HOST": f"{HOST}:{server.port}", "OMEGAUP_DB_TLS": True, "OMEGAUP_DB_TLS_INSIST_FILE": str(path),
    }  # fmt: skip
    return path


def rank(site: Site) -> int:
    return site.get("/schools/rank").status


def accepted(server: Mariadb) -> int:
    return int(server.sql("SHOW GLOBAL STATUS LIKE 'Ssl_finished_accepts'").split()[-1])


def test_from_plain_text_to_certificates_without_a_failed_request(world: World, server: Mariadb, word: Path) -> None:
    word.write_text("preferred\n")
    site = world.site()
    assert [rank(site) for _ in range(3)] == [200] * 3
    serve_tls(server, world.authority)
    assert [rank(site) for _ in range(3)] == [200] * 3
    assert accepted(server) >= 1, "the connection that was lost is made anew with TLS"
    server.sql(f"ALTER USER frontend@'{HOST}' REQUIRE SUBJECT '/CN=frontend'; SET GLOBAL require_secure_transport = ON")
    word.write_text("required\n")
    assert [rank(site) for _ in range(3)] == [200] * 3
    assert site.run(CIPHER).startswith(("TLS_", "ECDHE-"))


def test_a_connection_in_plain_text_is_not_taken_where_tls_is_wanted(world: World, server: Mariadb, word: Path) -> None:
    """PHP finds persistent connections by a name that does not say whether they are encrypted."""
    word.write_text("preferred\n")
    serve_tls(server, world.authority)
    plain = world.site(OMEGAUP_DB_TLS=False)
    assert rank(plain) == 200
    plain.config.write_text(plain.config.read_text().replace("'OMEGAUP_DB_TLS', false", "'OMEGAUP_DB_TLS', true"))
    server.sql(f"ALTER USER frontend@'{HOST}' REQUIRE SUBJECT '/CN=frontend'")
    assert rank(plain) == 200


@pytest.mark.parametrize("said", ["required\n", "", None])
def test_who_insists_leaves_a_server_without_tls(world: World, server: Mariadb, word: Path, said: str | None) -> None:
    if said is not None:
        word.write_text(said)
    assert world.site().run(REFUSED) == "left"


def test_without_a_file_it_insists(world: World, server: Mariadb, word: Path) -> None:
    assert world.site(OMEGAUP_DB_TLS_INSIST_FILE="").run(REFUSED) == "left"


@pytest.mark.parametrize("said", ["preferred\n", "off\n"])
def test_who_prefers_takes_it(world: World, server: Mariadb, word: Path, said: str) -> None:
    word.write_text(said)
    assert world.site().run(CIPHER) == ""


@pytest.mark.parametrize("said", ["preferred\n", "required\n"])
def test_a_server_that_is_not_ours_is_left_whatever_is_said(
    world: World, server: Mariadb, word: Path, tmp_path: Path, said: str
) -> None:
    word.write_text(said)
    other = Authority(tmp_path / "other")
    serve_tls(server, other)
    assert world.site().run(REFUSED) == "left"
    serve_tls(server, world.authority, "10.9.9.9")
    assert world.site().run(REFUSED) == "left", "the name of the server is verified"
    serve_tls(server, world.authority)
    assert world.site().run(REFUSED) == "taken"
