"""What TLS costs the database's clients: the same server and client with it and without, on loopback, alternating."""

from __future__ import annotations

import os
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy.roles.mysql_tls import CIPHERS, VERSIONS
from deploy.trust import signing
from deploy.trust.certificates import LeafProfile
from tests.unit.frontend.fakes import HOST, Mariadb

ROUNDS, CONNECTIONS, QUERIES = 7, 40, 2000
ACCOUNT = "worker"
MILLISECOND = 1e-3


def pair(folder: Path, name: str, root: Any) -> None:
    """NAME.crt and NAME.key as the fleet's own are: RSA 2048."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    profile = LeafProfile(
        common_name=name, role=name, organization="bench", ip_addresses=(HOST,), server_auth=True, client_auth=True
    )
    made = signing.issue(request.public_bytes(Encoding.PEM).decode(), profile, root[1], root[0], datetime.now(UTC))
    (folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Mariadb, Path]]:
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        root = signing.make_root("bench", 4096, 30, datetime.now(UTC))
        (folder / "ca.crt").write_bytes(root[1].public_bytes(Encoding.PEM))
        for one in ("mysql", ACCOUNT):
            pair(folder, one, root)
        tables = Path(__file__).resolve().parents[2] / "files"
        schema = [path for part in ("services", "frontend") for path in sorted((tables / part / "sql").glob("*.sql"))]
        server = Mariadb(folder, schema, os.geteuid() == 0)
        server.restart(
            f"--ssl-ca={folder}/ca.crt", f"--ssl-cert={folder}/mysql.crt", f"--ssl-key={folder}/mysql.key",
            f"--tls-version={VERSIONS}", f"--ssl-cipher={CIPHERS}",
        )  # fmt: skip
        server.sql(f"CREATE USER {ACCOUNT}@'{HOST}' IDENTIFIED BY 'x'")
        yield server, folder
        server.stop()


def connected(server: Mariadb, folder: Path | None) -> Any:
    """As the services connect: the context is made anew each time, from the files."""
    more: dict[str, Any] = {"ssl_disabled": True}
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / f"{ACCOUNT}.crt", folder / f"{ACCOUNT}.key")
        more = {"ssl": context}
    return pymysql.connect(host=HOST, port=server.port, user=ACCOUNT, password="x", **more)


def each(times: int, work: Callable[[], object]) -> float:
    """Seconds of one, on the average of so many."""
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times


def cipher(connection: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        return str(cursor.fetchone()[1])


def query(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT REPEAT('x', 200)")
        cursor.fetchall()


def test_what_tls_costs(place: tuple[Mariadb, Path]) -> None:
    server, folder = place
    kinds = {"plain": None, "TLS": folder}
    opened: dict[str, list[float]] = {kind: [] for kind in kinds}
    asked: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, files in kinds.items():
            opened[kind].append(each(CONNECTIONS, lambda files=files: connected(server, files).close()))  # type: ignore[misc]
            connection = connected(server, files)
            assert bool(cipher(connection)) == (files is not None)
            asked[kind].append(each(QUERIES, lambda connection=connection: query(connection)))  # type: ignore[misc]
            connection.close()
    plain, with_tls = (
        (statistics.median(opened[kind]) / MILLISECOND, statistics.median(asked[kind]) / MILLISECOND) for kind in kinds
    )
    times = tuple(one / other for one, other in zip(with_tls, plain, strict=True))
    print(
        f"\na connection: {plain[0]:.2f} ms, with TLS {with_tls[0]:.2f} ms ({times[0]:.1f} times); a query on an open "
        f"one: {plain[1]:.3f} ms, with TLS {with_tls[1]:.3f} ms ({times[1]:.2f} times), medians of {ROUNDS} rounds"
    )
    # Clients keep their connections: what a query costs is what counts.
    assert times[1] < 3 or with_tls[1] - plain[1] < 0.5
