"""MySQL 8 as the real omegaUp needs it: one server. MariaDB cannot run its migrations (collations, the ngram parser).

Debian 12 has no MySQL: the operator's own package source has to (set up on the host beforehand); where it has not, the
run says so before any package is touched. This project's replication, switchover and copies are MariaDB's and are not
here: the way back from a lost host is the operator's backup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deploy.errors import FleetError
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Parameter, Phase, Query, Resource, StepClass, Unit
from deploy.model.secrets import SecretSpec
from deploy.model.ways import Way
from deploy.roles import gates, mysql_tls, upstream_migrations
from deploy.roles.common import CA_FILE, CRL_FILE, certificate
from deploy.roles.exporters import ACCOUNT as EXPORTER

UNIT = "mysql.service"
PACKAGE = "mysql-server"
CONFIG = "/etc/mysql/mysql.conf.d/99-fleet.cnf"
SOCKET = "/run/mysqld/mysqld.sock"
ACCOUNTS_FILE = "/etc/fleet/mysql-accounts.sql"
RECORD = "/var/lib/fleet/mysql-accounts"
SQL = f"mysql --no-defaults --user=root --socket={SOCKET} --default-character-set=utf8mb4 -NB"
COLLATION = "utf8mb4_0900_ai_ci"
"""What MySQL 8 has by itself and upstream's schema.sql was made with. Not to be changed after the first migration."""
KIB, MIB = 1024, 1024**2

SECRETS: Mapping[str, SecretSpec] = {
    "mysql/app": SecretSpec("password", "MySQL: the frontend"),
    "mysql/grader": SecretSpec("password", "MySQL: the grader"),
    "mysql/gitserver": SecretSpec("password", "MySQL: the gitserver"),
    "mysql/worker": SecretSpec("password", "MySQL: the consumer of certificates and the daily scripts"),
}

ABSENT = (
    "no package source of this host has the package mysql-server, which Debian 12 does not have: add one (MySQL's own "
    "apt repository or a mirror of it) below /etc/apt/sources.list.d on this host and run apply again"
)

RESTART_ONLY = frozenset({"bind_address", "skip_name_resolve", "log_bin", *mysql_tls.FILES, "tls_version"})
"""The paths of TLS could be set while it runs, but only all together."""


def variables(ctx: Context) -> dict[str, str]:
    """Running variables as SHOW GLOBAL VARIABLES prints them."""
    settings = ctx.settings.mysql
    return {
        "bind_address": f"{ctx.host.address},127.0.0.1",
        "skip_name_resolve": "ON",
        "local_infile": "OFF",
        "character_set_server": "utf8mb4",
        "collation_server": COLLATION,
        "max_connections": str(settings.max_connections),
        # HAProxy's checks connect and say nothing; after so many of them MySQL would shut its host out.
        "max_connect_errors": "4294967295",
        "max_allowed_packet": str(settings.max_allowed_packet // KIB * KIB),
        "wait_timeout": str(settings.wait_timeout),
        # In whole chunks: what is between is rounded up by the server.
        "innodb_buffer_pool_size": str(-(-settings.innodb_buffer_pool_size // (128 * MIB)) * 128 * MIB),
        "innodb_flush_log_at_trx_commit": str(settings.innodb_flush_log_at_trx_commit),
        "slow_query_log": "ON",
        "long_query_time": f"{settings.long_query_time:.6f}",
        "log_bin": "ON",
        "sync_binlog": str(settings.sync_binlog),
        "binlog_expire_logs_seconds": str(int(settings.binlog_expire)),
        # Migration 1 switches it on, migration 2 sets the time zone, both until the next restart only.
        "event_scheduler": "ON",
        "time_zone": "+00:00",
        **(mysql_tls.FILES if ctx.settings.mysql.tls else {}),
        "tls_version": mysql_tls.VERSIONS,
    }


FILE_NAMES = {"time_zone": "default-time-zone"}
FILE_VALUES = {"log_bin": "binlog"}
"""Where the option is not called as the variable, or its value is not what the server prints."""


@dataclass(frozen=True)
class Login:
    """An account at one client address. `scopes`: what is granted on -> privileges.

    Tables may not be there yet: MySQL grants on such a one together with CREATE, which is then taken back.
    """

    user: str
    address: str
    secret: str
    scopes: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def sql(self) -> str:
        return f"'{self.user}'@'{self.address}'"


def logins(ctx: Context) -> tuple[Login, ...]:
    """Raises FleetError: the application's user has a name that is taken."""
    settings = ctx.settings.mysql
    taken = ("grader", "gitserver", "worker", "root", EXPORTER)
    if settings.user in taken:
        raise FleetError(
            subject="mysql.user", found=repr(settings.user), expected=f"a name other than {', '.join(taken)}",
            hint="choose another name for the application's user",
        )  # fmt: skip
    everything = f"`{settings.database}`.*".replace("_", "\\_")

    def tables(given: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple((f"`{settings.database}`.`{table}`", privileges) for table, privileges in given.items())

    read, change = ("SELECT",), ("SELECT", "UPDATE")
    work = ("DELETE", "INSERT", "SELECT", "UPDATE")
    needs: dict[str, tuple[str, str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
        # EXECUTE: migration 1 gives it to omegaup@localhost, who is not who comes here.
        "frontend": (settings.user, "mysql/app", ((everything, (*work, "EXECUTE")),)),
        "gitserver": ("gitserver", "mysql/gitserver", tables({"Identities": read, "Users": read})),
        "grader": (
            "grader",
            "mysql/grader",
            tables(
                {
                    "Contests": read, "Identities": read, "Problems": read, "Problemset_Problems": read,
                    "Runs": change, "Runs_Groups": ("DELETE", "INSERT", "SELECT"), "Submissions": change,
                }
            ),
        ),
        # The daily scripts go through most tables; upstream runs them as root.
        "worker": ("worker", "mysql/worker", ((everything, work),)),
    }  # fmt: skip
    return tuple(
        Login(user, host.address, secret, scopes)
        for service, (user, secret, scopes) in needs.items()
        for host in ctx.fleet.members(service)
    )


def accounts_sql(ctx: Context) -> str:
    """Everything that is to be there; accounts that are not in it are removed by the tool that loads it."""
    lines = [
        f"CREATE DATABASE IF NOT EXISTS `{ctx.settings.mysql.database}` CHARACTER SET utf8mb4 COLLATE {COLLATION};",
        # Migration 1 grants to it, and nobody is to come in by it.
        f"CREATE USER IF NOT EXISTS '{ctx.settings.mysql.user}'@'localhost' IDENTIFIED WITH auth_socket ACCOUNT LOCK;",
        f"CREATE USER IF NOT EXISTS '{EXPORTER}'@'localhost' IDENTIFIED WITH auth_socket;",
        f"GRANT PROCESS, REPLICATION CLIENT ON *.* TO '{EXPORTER}'@'localhost';",
        f"GRANT SELECT ON performance_schema.* TO '{EXPORTER}'@'localhost';",
    ]
    for login in logins(ctx):
        first, *second = ctx.accepts(login.secret)
        password = f"IDENTIFIED WITH caching_sha2_password BY '{first.value}'"
        lines.append(f"CREATE USER IF NOT EXISTS {login.sql} {password};")
        lines.append(f"ALTER USER {login.sql} {password} ACCOUNT UNLOCK;")
        # The second it takes beside the first (since 8.0.14), until it is told to forget it.
        for other in second:
            password = f"IDENTIFIED WITH caching_sha2_password BY '{other.value}'"
            lines.append(f"ALTER USER {login.sql} {password} RETAIN CURRENT PASSWORD;")
        if first.turn and not second:
            lines.append(f"ALTER USER {login.sql} DISCARD OLD PASSWORD;")
        # Only when the file is loaded, that is when accounts have changed; for that moment the account may do nothing.
        lines.append(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {login.sql};")
        for scope, privileges in login.scopes:
            table = not scope.endswith("*")
            granted = ", ".join(("CREATE", *privileges) if table else privileges)
            lines.append(f"GRANT {granted} ON {scope} TO {login.sql};")
            if table:
                lines.append(f"REVOKE CREATE ON {scope} FROM {login.sql};")
    return "\n".join(lines) + "\n"


def desired(ctx: Context) -> Iterable[Resource]:
    yield File(
        path="/etc/apt/preferences.d/61-fleet-mysql.pref", phase=Phase.PACKAGES,
        content=ctx.render("upstream/mysql.pref.j2"),
        check=ctx.render("upstream/source.sh.j2", package=PACKAGE, absent=ABSENT),
    )  # fmt: skip
    yield Package(name=PACKAGE)
    values, base = variables(ctx), ctx.settings.base
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield File(
        path=drop_in,
        content=ctx.render("mysql/service.conf.j2", nofile=base.service_nofile, sandbox=False),
    )  # Of another program than the one that was tried so confined.
    shown = {FILE_NAMES.get(name, name): FILE_VALUES.get(name, value) for name, value in values.items()}
    yield File(
        path=CONFIG, content=ctx.render("upstream/mysql.cnf.j2", values=shown),
        check='mysqld --defaults-file="$CANDIDATE" --user=mysql --validate-config',
    )  # fmt: skip
    yield certificate(ctx, "mysql")
    loaded: tuple[str, ...] = ()
    if ctx.settings.mysql.tls:
        client, statement = "/usr/bin/mysql", "ALTER INSTANCE RELOAD TLS"
        text = ctx.render("mysql/reload.conf.j2", client=client, statement=statement, socket=SOCKET)
        yield File(path=f"/etc/systemd/system/{UNIT}.d/40-fleet-reload.conf", content=text)
        loaded = (mysql_tls.CERTIFICATE, CA_FILE, CRL_FILE)
    yield Unit(name=UNIT, rolling=True, restart_files=(drop_in,), start_files=(CONFIG,), reload_files=loaded)
    yield from _running(values)
    yield File(path=ACCOUNTS_FILE, content=accounts_sql(ctx), mode=0o600, secret=True)
    yield _accounts(ctx)
    yield from upstream_migrations.migrations(ctx, SQL, SOCKET, UNIT)


def _running(values: Mapping[str, str]) -> Iterator[Parameter]:
    names = ", ".join(f"'{name}'" for name in values)
    query = Query("mysql", f'{SQL} -e "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"', UNIT)
    for name, value in values.items():
        restart = name in RESTART_ONLY
        text = value if value.replace(".", "").isdigit() or value in {"ON", "OFF"} else f"'{value}'"
        yield Parameter(
            query=query, name=name, want=value, at_start=True, label=f"mysql:{name}",
            step=StepClass.RESTART if restart else StepClass.HOT,
            act="" if restart else f"{SQL} <<'SQL'\nSET GLOBAL {name} = {text};\nSQL",
        )  # fmt: skip


def _accounts(ctx: Context) -> Parameter:
    """What the server printed of its accounts right after the file was loaded is kept, and compared with what it prints
    now: how it prints a grant differs between versions.
    """
    # What may be there: ours, and those that the server and its package make for themselves.
    mine = [f"{one.user}@{one.address}" for one in logins(ctx)]
    own = [
        f"{name}@localhost" for name in ("mysql.infoschema", "mysql.session", "mysql.sys", "debian-sys-maint", "root")
    ]
    keep = [*mine, *own, f"{ctx.settings.mysql.user}@localhost", f"{EXPORTER}@localhost"]
    values = {"sql": SQL, "file": ACCOUNTS_FILE, "record": RECORD, "keep": keep, "user": ctx.settings.mysql.user}
    return Parameter(
        query=Query("mysql-accounts", ctx.render("upstream/accounts.sh.j2", act=False, **values), UNIT),
        name="accounts", want=f"as in {ACCOUNTS_FILE}", loads=(ACCOUNTS_FILE,), label="mysql:accounts",
        act=ctx.render("upstream/accounts.sh.j2", act=True, **values),
    )  # fmt: skip


def ways(ctx: Context) -> Iterable[Way]:
    yield Way(name="mysql", service="mysql", units=(UNIT,), gates=gates.usual("mysql", (UNIT,)))
