"""MariaDB as it runs."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from deploy.model.fleet import Fleet, HostSpec

pytestmark = pytest.mark.service("mysql")


def ask(host: Host, statement: str) -> str:
    return str(host.check_output(f'mariadb -NB -e "{statement}"')).strip()


def variables(host: Host) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in ask(host, "SHOW GLOBAL VARIABLES").splitlines() if "\t" in line)


def replica(host: Host) -> dict[str, str]:
    lines = str(host.check_output("mariadb -e 'SHOW SLAVE STATUS\\G'")).splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}


def test_no_commit_is_lost(host: Host, spec: HostSpec) -> None:
    found = variables(host)
    assert found["innodb_flush_log_at_trx_commit"] == "1"
    assert found["sync_binlog"] == "1"
    assert found["log_bin"] == "ON"
    assert found["binlog_format"] == "ROW"
    assert found["gtid_strict_mode"] == "ON"


def test_sizes(host: Host, spec: HostSpec) -> None:
    found, settings = variables(host), spec.settings.mysql
    assert int(found["max_connections"]) == settings.max_connections
    assert int(found["innodb_buffer_pool_size"]) == settings.innodb_buffer_pool_size
    assert int(found["max_allowed_packet"]) == settings.max_allowed_packet
    assert int(found["slave_net_timeout"]) == settings.slave_net_timeout


def test_utf8mb4_and_utc(host: Host, spec: HostSpec) -> None:
    found = variables(host)
    assert found["character_set_server"] == "utf8mb4"
    assert found["time_zone"] == "+00:00"


def test_server_ids_differ(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    from tests.fleet.conftest import connection

    ids = [ask(connection(member.name), "SELECT @@server_id") for member in fleet.members("mysql")]
    assert len(set(ids)) == len(ids)


def test_starts_read_only(host: Host, spec: HostSpec) -> None:
    """In the files, on every member: only a promotion opens it."""
    said = host.check_output("my_print_defaults --mysqld")
    assert "--read_only=1" in said.replace("-only", "_only").replace("=ON", "=1").splitlines()


def test_replicas_run_and_keep_up(host: Host, spec: HostSpec) -> None:
    if ask(host, "SELECT @@read_only") == "0":
        assert replica(host) == {}
        return
    found = replica(host)
    assert found["Slave_IO_Running"] == found["Slave_SQL_Running"] == "Yes"
    assert int(found["Seconds_Behind_Master"]) < 30
    assert found["Using_Gtid"] in {"Slave_Pos", "Current_Pos"}
    assert found.get("Last_Error", "") == ""


def test_accounts(host: Host, spec: HostSpec) -> None:
    users = set(ask(host, "SELECT DISTINCT User FROM mysql.global_priv").split("\n"))
    own = {"root", "mariadb.sys", "mysql", "prometheus"}
    assert users <= own | {spec.settings.mysql.user, "grader", "worker", "replica", "seed"}
    assert "" not in users
    powerful = ask(
        host, "SELECT DISTINCT GRANTEE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SUPER'"
    )
    assert all(name.split("@")[0].strip("'") in {"root", "mysql"} for name in powerful.splitlines())


def test_root_has_no_password_login(host: Host, spec: HostSpec) -> None:
    assert host.run("mariadb -h 127.0.0.1 -u root -e 'SELECT 1'").rc != 0


def test_schema_is_applied(host: Host, spec: HostSpec) -> None:
    tables = set(ask(host, f"SHOW TABLES FROM {spec.settings.mysql.database}").split("\n"))
    assert {"Submissions", "Runs", "Certificates"} <= tables


# -- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _encrypted(spec: HostSpec) -> None:
    if not spec.settings.mysql.tls:
        pytest.skip("mysql.tls is off")


@pytest.mark.usefixtures("_encrypted")
def test_serves_tls_and_nothing_else_to_the_network(host: Host, spec: HostSpec) -> None:
    found = variables(host)
    assert found["have_ssl"] == "YES"
    assert found["require_secure_transport"] == "ON"
    assert set(found["tls_version"].split(",")) == {"TLSv1.2", "TLSv1.3"}


@pytest.mark.usefixtures("_encrypted")
def test_every_account_of_the_network_wants_the_certificate_of_its_role(host: Host, spec: HostSpec) -> None:
    wanted = ask(
        host,
        "SELECT User, Host, JSON_VALUE(Priv, '$.x509_subject') FROM mysql.global_priv "
        "WHERE JSON_VALUE(Priv, '$.is_role') IS NULL AND Host <> 'localhost'",
    )
    rows = [line.split("\t") for line in wanted.splitlines()]
    assert rows
    roles = {spec.settings.mysql.user: "frontend", "replica": "mysql", "seed": "mysql"}
    for user, _, subject in rows:
        assert re.fullmatch(r"/O=[^/]+/OU={0}/CN={0}".format(roles.get(user, user)), subject), (user, subject)


@pytest.mark.usefixtures("_encrypted")
def test_replication_is_encrypted_and_its_primary_verified(host: Host, spec: HostSpec) -> None:
    found = replica(host)
    if not found:
        pytest.skip("the primary")
    assert found["Master_SSL_Allowed"] == found["Master_SSL_Verify_Server_Cert"] == "Yes"
    assert found["Master_SSL_CA_File"].endswith("/ca.crt")


@pytest.mark.usefixtures("_encrypted")
def test_nobody_who_is_connected_could_have_come_without(host: Host, spec: HostSpec) -> None:
    """Everybody who is connected by network uses an account that wants a certificate."""
    loose = ask(
        host,
        "SELECT DISTINCT p.USER, p.HOST FROM information_schema.PROCESSLIST p WHERE p.HOST LIKE '%:%' AND NOT EXISTS "
        "(SELECT 1 FROM mysql.global_priv g WHERE g.User = p.USER AND JSON_VALUE(g.Priv, '$.ssl_type') = 3)",
    )
    # Who has not said yet who it is.
    assert [line for line in loose.splitlines() if not line.startswith("unauthenticated user")] == []
