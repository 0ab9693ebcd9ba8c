"""MariaDB: one primary, which takes the writes, and replicas that fill themselves from another member; by GTIDs.

Every member starts read-only, and only what was proven to be the primary is opened, at run time: a primary that comes
back from a crash after its replica took over must not take writes (see mysql_members.leader for the proof). For the
same reason no file makes a member wait for replicas: the primary is told so once replicas follow it.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Context, HostSpec
from deploy.model.resources import (
    Directory,
    File,
    Only,
    Package,
    Parameter,
    Phase,
    Query,
    Resource,
    StepClass,
    Unit,
)
from deploy.model.ways import Way
from deploy.roles import mysql_access as access
from deploy.roles import mysql_agent, mysql_rolling, mysql_tls
from deploy.roles.common import CA_FILE, CRL_FILE, timer
from deploy.roles.mysql_agent import agent
from deploy.roles.mysql_members import FILES_QUERY, SERVER_QUERY, clusters, standings

__all__ = ["SECRETS", "clusters", "desired", "standings", "ways"]

SECRETS = access.SECRETS

UNIT = "mariadb.service"
FOLDER = "/etc/mysql/mariadb.conf.d"
CONFIG = f"{FOLDER}/99-fleet.cnf"
DATA = "/var/lib/mysql"
ORIGIN = f"{DATA}/fleet-origin"
PROMISED, CLOSED = f"{DATA}/fleet-promised", "/run/fleet/mysql-closed"
"""Left by a switchover or failover on its way: this member is to lead; it was closed, and opens again by itself."""
OPENED = f"{DATA}/fleet-opened"
"""Which start of the server took writes last: another one is opened by itself, with the proof that apply wants."""
WATCH = "fleet-mysql-watch"
SOCKET = "/run/mysqld/mysqld.sock"
TOOL = "/usr/local/lib/fleet/mysql"
ROLE_TOOL = "/usr/local/lib/fleet/mysql-role"
SEED_UNIT = "fleet-mysql-seed.service"
SEED_SECONDS = 780
"""How long one run waits for a new member to be filled: less than a host's script may take."""
SEED_FILE, REPLICA_FILE = "/etc/fleet/mysql-seed.cnf", "/etc/fleet/mysql-replica.auth"
CLIENT = f"mariadb --no-defaults --user=root --socket={SOCKET} --default-character-set=utf8mb4"
SQL = f"{CLIENT} -NBr"
COLLATION = "utf8mb4_unicode_ci"
GTID_DOMAIN = 1
KIB, MIB = 1024, 1024**2

RESTART_ONLY = frozenset(
    {"bind_address", "log_bin", "log_slave_updates", "relay_log", "skip_name_resolve", *mysql_tls.RESTART_ONLY}
)
"""What information_schema.SYSTEM_VARIABLES calls READ_ONLY, of the variables below (measured on 10.11.19)."""

REPLICATION_STOPPED = frozenset({"slave_net_timeout", "slave_parallel_threads"})
"""Taken by a replica's threads at their start; some are refused while they run."""

# The server's own parser reads the candidate. It shrugs at a bad value of InnoDB's and at one out of bounds, we do not.
CHECK = (
    'said=$(mariadbd --defaults-file="$CANDIDATE" --user=mysql --help --verbose 2>&1 >/dev/null) || rc=$?\n'
    "wrong=$(printf '%s\\n' \"$said\" | grep -E '\\[ERROR\\]|adjusted to|^error:|Fatal' | grep -v WSREP | head -n 4)\n"
    '[ "${rc:-0}" = 0 ] && [ -z "$wrong" ] || { printf \'%s\\n\' "${wrong:-$said}"; exit 1; }'
)


def server_id(host: HostSpec) -> int:
    """Of the host's address, which is unique in a fleet and does not change with the order of the inventory."""
    address = ipaddress.ip_address(host.address)
    if address.version == 4:
        return int(address)
    return int.from_bytes(hashlib.sha256(address.packed).digest()[:4], "big") | 1


def variables(ctx: Context) -> dict[str, str]:
    """Running variables as the server prints them; the file has them in the same form."""
    settings = ctx.settings.mysql
    return {
        "server_id": str(server_id(ctx.host)),
        # Not 127.0.0.2: there a client host's own proxy listens, which may be this host.
        "bind_address": f"{ctx.host.address},127.0.0.1",
        "skip_name_resolve": "ON",
        "local_infile": "OFF",
        "character_set_server": "utf8mb4",
        "collation_server": COLLATION,
        "max_connections": str(settings.max_connections),
        "max_allowed_packet": str(settings.max_allowed_packet // KIB * KIB),
        "wait_timeout": str(settings.wait_timeout),
        "innodb_buffer_pool_size": str(settings.innodb_buffer_pool_size // MIB * MIB),
        "innodb_log_file_size": str(settings.innodb_log_file_size // (4 * KIB) * 4 * KIB),
        "innodb_flush_log_at_trx_commit": str(settings.innodb_flush_log_at_trx_commit),
        "slow_query_log": "ON",
        "slow_query_log_file": "/var/log/mysql/mariadb-slow.log",
        "long_query_time": f"{settings.long_query_time:.6f}",
        "log_bin": "ON",
        "log_slave_updates": "ON",
        "binlog_format": "ROW",
        "binlog_row_image": "FULL",
        "binlog_expire_logs_seconds": str(int(settings.binlog_expire)),
        "sync_binlog": str(settings.sync_binlog),
        "gtid_domain_id": str(GTID_DOMAIN),
        "gtid_strict_mode": "ON",
        "relay_log": "relay",
        "relay_log_recovery": "ON",
        "slave_net_timeout": str(settings.slave_net_timeout),
        "slave_parallel_mode": "optimistic",
        "slave_parallel_threads": str(settings.slave_parallel_threads),
        # On every member: it has no effect on one that follows nobody.
        "rpl_semi_sync_slave_enabled": "ON" if semi_sync(ctx) else "OFF",
        "rpl_semi_sync_master_wait_point": settings.semi_sync_wait_point,
        "rpl_semi_sync_master_timeout": str(int(settings.semi_sync_timeout * 1000)),
        "read_only": "ON",
        "event_scheduler": "OFF",
        "time_zone": "+00:00",
        **mysql_tls.variables(ctx),
    }


FILE_NAMES = {"time_zone": "default_time_zone"}
FILE_VALUES = {"log_bin": "binlog"}
"""Where the option is not called as the variable, or its value is not what the server prints."""


def desired(ctx: Context) -> Iterable[Resource]:
    for package in ("mariadb-server", "mariadb-backup"):
        yield Package(name=package, source="mariadb")
    yield Package(name="curl")
    yield from _files(ctx)
    yield Unit(
        name=UNIT, rolling=True, restart_files=(f"/etc/systemd/system/{UNIT}.d/60-fleet.conf",), start_files=(CONFIG,),
        reload_files=(mysql_tls.CERTIFICATE, CA_FILE, CRL_FILE) if mysql_tls.on(ctx) else (),
    )  # fmt: skip
    yield from timer(ctx, "mysql", WATCH, tool=ROLE_TOOL)
    yield from agent(ctx, SOCKET)
    server = _server(ctx)
    values = variables(ctx)
    leads = ctx.leads("mysql")
    # On the primary alone, and last: until accounts and tables are there, it takes no writes.
    opened = {"event_scheduler": "ON", "read_only": "OFF"} if leads else {}
    for name, value in values.items():
        if name not in opened:
            yield _variable(server, name, value, at_start=True)
    if leads:
        yield from _primary(ctx, server)
    else:
        yield from _replica(ctx, server)
    for name, value in opened.items():
        yield _variable(server, name, value, at_start=False)
    yield _semi_sync(ctx, server)


def ways(ctx: Context) -> Iterator[Way]:
    yield mysql_rolling.way(ctx, UNIT, mysql_agent.UNIT, ROLE_TOOL)


def _files(ctx: Context) -> Iterator[Resource]:
    values = variables(ctx)
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield Directory(path="/var/log/mysql", owner="mysql", group="adm", mode=0o2750)
    yield File(
        path=f"/etc/systemd/system/{UNIT}.d/60-fleet.conf",
        content=ctx.render(
            "mysql/service.conf.j2", nofile=ctx.settings.base.service_nofile, sandbox=ctx.settings.base.sandbox
        ),
    )
    # Before the stamp (50): what the server refuses to load must not count as loaded.
    yield File(
        path=f"/etc/systemd/system/{UNIT}.d/40-fleet-reload.conf",
        content=ctx.render(
            "mysql/reload.conf.j2", client="/usr/bin/mariadb", statement="FLUSH LOCAL SSL", socket=SOCKET
        ),
        absent=not mysql_tls.on(ctx),
    )
    yield File(
        path=CONFIG,
        content=ctx.render(
            "mysql/fleet.cnf.j2",
            values={
                FILE_NAMES.get(name, name): FILE_VALUES.get(name, value) for name, value in values.items() if value
            },
        ),
        check=CHECK,
    )
    port = SERVICES["mysql"].port("mysql").number
    yield File(
        path=TOOL,
        content=ctx.render(
            "mysql/tool.sh.j2", origin_file=ORIGIN, data=DATA, database=ctx.settings.mysql.database, socket=SOCKET,
            seed_file=SEED_FILE, seed_unit=SEED_UNIT, replica_file=REPLICA_FILE, replica_user=access.REPLICA,
            port=port, domain=GTID_DOMAIN, members=" ".join(host.address for host in ctx.fleet.members("mysql")),
            address=ctx.host.address, copies=SERVICES["mysql"].port("seed").number, ssl=SSL_DIR,
            promised=PROMISED, seed_seconds=SEED_SECONDS, transport=mysql_tls.replication(ctx),
            encrypted=mysql_tls.shut(ctx), certificate=values["ssl_cert"],
        ),
        mode=0o755,
    )  # fmt: skip
    yield File(
        path=ROLE_TOOL, mode=0o755,
        content=ctx.render(
            "mysql/role.sh.j2", members=" ".join(host.address for host in ctx.fleet.members("mysql")),
            address=ctx.host.address, socket=SOCKET, seed_file=SEED_FILE, seed_user=access.SEED,
            replica_file=REPLICA_FILE, replica_user=access.REPLICA, agent=access.AGENT, port=port,
            semi_sync=semi_sync(ctx), database=ctx.settings.mysql.database, promised=PROMISED, closed=CLOSED,
            opened=OPENED, transport=mysql_tls.replication(ctx),
        ),
    )  # fmt: skip
    files = _files_query(ctx)
    # A file read after ours would be stronger than ours.
    yield Only(
        query=files, prefix="later ", names=frozenset(), act=f'rm -f -- {FOLDER}/"$NAME"', phase=Phase.FILES,
    )  # fmt: skip
    if len(ctx.fleet.members("mysql")) == 1:
        return
    yield File(
        path=SEED_FILE,
        content=ctx.render(
            "mysql/seed.cnf.j2", user=access.SEED, password=ctx.secret("mysql/seed"), port=port,
            encrypted=mysql_tls.shut(ctx), ca=CA_FILE, crl=CRL_FILE, certificate=mysql_tls.CERTIFICATE,
            key=mysql_tls.KEY,
        ),
        mode=0o400, secret=True,
    )  # fmt: skip
    yield File(path=REPLICA_FILE, content=ctx.secret("mysql/replica") + "\n", mode=0o400, secret=True)
    # On the primary too, where it does nothing: which files there are must not depend on who leads.
    yield File(path=f"/etc/systemd/system/{SEED_UNIT}", content=ctx.render("mysql/seed.service.j2", tool=TOOL))
    if ctx.leads("mysql"):
        return
    # Before the unit starts: half of the server's own tables may keep it from starting.
    yield Parameter(
        query=files, name="copy", want="whole", act=f"{TOOL} clear", step=StepClass.WRITE, phase=Phase.FILES,
        label="mysql:unfinished copy",
    )  # fmt: skip


def _files_query(ctx: Context) -> Query:
    script = ctx.render(
        "mysql/look_files.sh.j2", origin_file=ORIGIN, data=DATA, seed_unit=SEED_UNIT, folder=FOLDER, config=CONFIG,
        promised=PROMISED, closed=CLOSED,
    )  # fmt: skip
    return Query(FILES_QUERY, script)


def _server(ctx: Context) -> Query:
    """One question for all of it, the same on every member: who leads is only known from its answers."""
    script = ctx.render(
        "mysql/look.sh.j2", client=CLIENT, origin_file=ORIGIN, data=DATA, replica_file=REPLICA_FILE,
        variables=[access.literal(name.upper()) for name in variables(ctx)], ca=CA_FILE,
        certificate=mysql_tls.CERTIFICATE,
        database=ctx.settings.mysql.database,
        accounts=access.digests(ctx),
        declared=[access.literal(login.name) for login in access.logins(ctx)] or ["''"],
    )  # fmt: skip
    return Query(SERVER_QUERY, script, UNIT)


def _variable(server: Query, name: str, value: str, *, at_start: bool) -> Parameter:
    restart = name in RESTART_ONLY
    text = value if re.fullmatch(r"[0-9.]+|ON|OFF", value) else access.literal(value)
    lines = [f"SET GLOBAL {name} = {text};"]
    if name == "read_only":
        # It waits for running transactions, and new writes wait for it.
        lines.insert(0, "SET SESSION lock_wait_timeout = 30;")
    act = f"{SQL} <<'SQL'\n" + "\n".join(lines) + "\nSQL"
    if name == "read_only":
        # Whatever a move that broke off has left: it is decided now who leads.
        act += f"\nrm -f -- {PROMISED} {CLOSED}"
    if name in REPLICATION_STOPPED:
        follows = f"follows=$({SQL} -e 'SHOW SLAVE STATUS')"
        # The primary's sign of life has to come within the time-out.
        beat = (
            f"CHANGE MASTER TO MASTER_HEARTBEAT_PERIOD = {int(value) / 2:.1f}; " if name == "slave_net_timeout" else ""
        )
        act = (
            f"{follows}\n[ -z \"$follows\" ] || {SQL} -e 'STOP SLAVE'\n{act}\n"
            f"[ -z \"$follows\" ] || {SQL} -e '{beat}START SLAVE'"
        )
    return Parameter(
        query=server, name=f"variable {name}", want=value, at_start=at_start, label=f"mysql:{name}",
        step=StepClass.RESTART if restart else StepClass.HOT, act="" if restart else act,
        phase=Phase.LAST if (name, value) == ("require_secure_transport", "ON") else Phase.STATE,
    )  # fmt: skip


def _primary(ctx: Context, server: Query) -> Iterator[Resource]:
    database = ctx.settings.mysql.database
    yield Parameter(query=server, name="data", want="held", act=f"{TOOL} origin", label="mysql:data")
    yield Parameter(
        query=server, name="database", want=COLLATION, label=f"mysql:database {database}",
        act=f"{SQL} <<'SQL'\nCREATE DATABASE IF NOT EXISTS `{database}`;\n"
        f"ALTER DATABASE `{database}` CHARACTER SET utf8mb4 COLLATE {COLLATION};\nSQL",
    )  # fmt: skip
    yield from _schema(ctx, server)
    yield from access.accounts(ctx, server, SQL, TOOL)
    # A host that is no member any more: without an account it goes on reading, and acknowledging, until it is cut off.
    readers = frozenset(f"reader {host.address}" for host in ctx.fleet.members("mysql"))
    yield Only(query=server, prefix="reader ", names=readers, act=f'{TOOL} drop reader "$NAME"')
    if database != "test":
        yield Only(query=server, prefix="test ", names=frozenset(), act=f"{TOOL} drop_test")


def schema(ctx: Context) -> dict[str, bytes]:
    """The files of SQL in the order in which they are applied: name -> content."""
    return {
        f"{part}/{path.removeprefix('sql/')}": content
        for part in ("services", "frontend")
        for path, content in sorted(ctx.files(part).items())
        if path.startswith("sql/") and path.endswith(".sql")
    }


def repeatable(content: bytes) -> bool:
    """Whether a file that was begun and not finished may simply be run again: it only makes tables that are missing."""
    # Strings and comments in one pass: either may hold what begins the other. What MariaDB runs in /*! */ is left.
    text = re.sub(
        r"'(?:[^'\\]|\\.|'')*'|--[^\n]*|/\*(?!!).*?\*/",
        lambda found: "''" if found[0].startswith("'") else "",
        content.decode(),
        flags=re.DOTALL,
    )
    statements = [statement.strip() for statement in text.split(";")]
    return all(re.match(r"CREATE TABLE IF NOT EXISTS\b", one, re.IGNORECASE) for one in statements if one)


def _schema(ctx: Context, server: Query) -> Iterator[Resource]:
    for name, content in schema(ctx).items():
        digest = hashlib.sha256(content).hexdigest()
        again = "yes" if repeatable(content) else "no"
        yield Parameter(
            query=server, name=f"schema {name}", want=digest[:12], label=f"mysql:schema {name}",
            act=f"{TOOL} schema {name} {digest} {again} <<'CONTENT'\n"
            f"{base64.encodebytes(content).decode().strip()}\nCONTENT",
        )  # fmt: skip


def semi_sync(ctx: Context) -> bool:
    return ctx.settings.mysql.semi_sync and len(ctx.fleet.members("mysql")) > 1


def _semi_sync(ctx: Context, server: Query) -> Parameter:
    """Last of all: on before there is a replica, it would stall the first commits and then switch itself off."""
    if not semi_sync(ctx):
        return Parameter(
            query=server, name="semi-sync", want="off", phase=Phase.MEMBERS, label="mysql:semi-sync",
            act=f"{TOOL} alone",
        )  # fmt: skip
    if not ctx.leads("mysql"):
        return Parameter(
            query=server, name="semi-sync", want="acknowledges", phase=Phase.MEMBERS, label="mysql:semi-sync",
            act=f"{TOOL} acknowledge",
        )  # fmt: skip
    others = {host.name for host in ctx.fleet.members("mysql")} - {ctx.host.name}
    # None can follow before it is filled, which it is in this very phase.
    patience = SEED_SECONDS + 60 if others <= ctx.live.empty.get("mysql", frozenset()) else 30
    return Parameter(
        query=server, name="semi-sync", want="waits for a replica", phase=Phase.MEMBERS, label="mysql:semi-sync",
        act=f"{TOOL} wait_for_replicas {patience}",
    )  # fmt: skip


def _replica(ctx: Context, server: Query) -> Iterator[Resource]:
    primary = ctx.leader("mysql").address
    port = SERVICES["mysql"].port("mysql").number
    wants = {
        "data": ("held", f"{TOOL} seed {primary}"),
        "writes": ("none of its own", f"{TOOL} errant {primary}"),
        "replication": (
            f"from {primary}:{port} as {access.REPLICA} by Slave_Pos{mysql_tls.shown(ctx)}",
            f"{TOOL} follow {primary}",
        ),
        "password": ("as declared", f"{TOOL} follow {primary}"),
        "threads": ("io Yes, sql Yes", f"{TOOL} follow {primary}"),
    }
    for name, (want, act) in wants.items():
        loads = (REPLICA_FILE,) if name == "password" else ()
        yield Parameter(
            query=server, name=name, want=want, act=act, loads=loads, phase=Phase.MEMBERS, label=f"mysql:{name}"
        )
