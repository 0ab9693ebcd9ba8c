"""The database's accounts: one for each client address, with exactly the privileges that its statements need.

An account names its client's address rather than '%': the same addresses that the firewall lets in, so nothing more
has to be kept right, and a password taken from one host is of no use on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploy.errors import FleetError
from deploy.model.fleet import Context
from deploy.model.resources import Only, Parameter, Phase, Query, Resource
from deploy.model.secrets import SecretSpec
from deploy.roles import mysql_tls

SECRETS: Mapping[str, SecretSpec] = {
    "mysql/app": SecretSpec("password", "MySQL: the frontend"),
    "mysql/grader": SecretSpec("password", "MySQL: the grader"),
    "mysql/worker": SecretSpec("password", "MySQL: the workers"),
    "mysql/replica": SecretSpec("password", "MySQL: replicas to their primary"),
    "mysql/seed": SecretSpec("password", "MySQL: members ask one another where they stand"),
}

GRADER, WORKER, REPLICA, SEED = "grader", "worker", "replica", "seed"
OWN = frozenset({"root@localhost", "mariadb.sys@localhost"})
"""The server's own accounts that stay: root, by its socket alone, and the locked owner of the views in sys."""

WORKER_TABLES = ("Analytics_Daily", "Analytics_Events", "Certificate_Files", "Certificates", "Mails_Sent")
"""What the workers leave behind."""

WORK = ("INSERT", "SELECT", "UPDATE")
"""What a service does to its own tables."""

PEER_PRIVILEGES = ("BINLOG MONITOR", "SLAVE MONITOR")
"""To ask another member where it stands."""

AGENT = "mysql"
"""For the agent and the copies that it makes: known by the socket and the system account that it comes from."""

EXPORTER = "prometheus"
"""For the exporter's figures: known as the agent is."""
EXPORTER_PRIVILEGES = ("BINLOG MONITOR", "PROCESS", "SLAVE MONITOR")

AGENT_PRIVILEGES = ("BINLOG MONITOR", "LOCK TABLES", "PROCESS", "RELOAD", "SLAVE MONITOR")


@dataclass(frozen=True)
class Login:
    """An account: the user of one client address. `grants`: scope, as SQL has it -> privileges. `role`: of the
    certificate that it shows.

    Without a secret it is the agent or the exporter, on the host itself.
    """

    user: str
    address: str
    secret: str
    grants: Mapping[str, tuple[str, ...]]
    role: str = ""

    @property
    def name(self) -> str:
        return f"{self.user}@{self.address}"

    @property
    def sql(self) -> str:
        return f"'{self.user}'@'{self.address}'"

    @property
    def shown(self) -> str:
        """The grants as the look prints them."""
        return "; ".join(f"{scope}: {', '.join(sorted(self.grants[scope]))}" for scope in sorted(self.grants))


def digest(password: str) -> str:
    """What mysql_native_password keeps of a password; the protocol PHP and PyMySQL have in common."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def logins(ctx: Context) -> tuple[Login, ...]:
    """Every account that there is to be.

    Raises:
        FleetError: the application's user has a name that is taken.
    """
    settings = ctx.settings.mysql
    taken = (GRADER, WORKER, REPLICA, SEED, AGENT, EXPORTER, "root")
    if settings.user in taken:
        raise FleetError(
            subject="mysql.user",
            found=repr(settings.user),
            expected=f"a name other than {', '.join(taken)}",
            hint="choose another name for the application's user",
        )
    # In a grant on a database the underscore stands for any character.
    everything = f"`{settings.database}`.*".replace("_", "\\_")
    table = f"`{settings.database}`.`%s`"
    needs: dict[str, tuple[str, str, dict[str, tuple[str, ...]]]] = {
        "frontend": (settings.user, "mysql/app", {everything: ("DELETE", "INSERT", "SELECT", "UPDATE")}),
        "grader": (GRADER, "mysql/grader", {table % "Runs": WORK, table % "Submissions": WORK}),
        "worker": (WORKER, "mysql/worker", {table % name: WORK for name in WORKER_TABLES}),
    }
    found = [
        Login(user, host.address, secret, grants, service)
        for service, (user, secret, grants) in needs.items()
        for host in ctx.fleet.members(service)
    ]
    found.append(Login(AGENT, "localhost", "", {"*.*": AGENT_PRIVILEGES}))
    found.append(Login(EXPORTER, "localhost", "", {"*.*": EXPORTER_PRIVILEGES}))
    members = ctx.fleet.members("mysql")
    # For every member, the primary too: after a failover it is the one that follows.
    for host in members if len(members) > 1 else ():
        found.append(Login(REPLICA, host.address, "mysql/replica", {"*.*": ("REPLICATION SLAVE",)}, "mysql"))
        asked = {"*.*": PEER_PRIVILEGES, everything: ("SELECT",)}
        found.append(Login(SEED, host.address, "mysql/seed", asked, "mysql"))
    return tuple(found)


def digests(ctx: Context) -> list[tuple[str, list[str]]]:
    """(user, what the server keeps of the passwords that it may come with), as SQL strings."""
    pairs = {(one.user, one.secret): None for one in logins(ctx) if one.secret}
    return [(literal(user), [literal(one) for one in kept(ctx, secret)]) for user, secret in pairs]


def kept(ctx: Context, secret: str) -> list[str]:
    """What the server keeps of a secret: of two values while one takes the other's place."""
    return [digest(one.value) for one in ctx.accepts(secret)] if secret else []


def accounts(ctx: Context, query: Query, sql: str, tool: str) -> Iterator[Resource]:
    """The accounts on the primary, from where they replicate.

    sql: the client, reading statements from stdin. tool: the host's templates/mysql/tool.sh.j2.
    """
    everybody = logins(ctx)
    yield Parameter(
        query=query, name="account root@localhost", want="unix_socket",
        act=_run(sql, "ALTER USER root@localhost IDENTIFIED VIA unix_socket ACCOUNT UNLOCK;"),
    )  # fmt: skip
    for login in everybody:
        yield Parameter(
            query=query, name=f"account {login.name}",
            want="password as declared" if login.secret else "unix_socket",
            act=_run(sql, declared(login, kept(ctx, login.secret))),
        )  # fmt: skip
        yield Parameter(
            query=query, name=f"grants {login.name}", want=login.shown, act=_grant(ctx, sql, tool, login)
        )  # fmt: skip
        yield _requires(ctx, query, sql, login)
    names = {login.name for login in everybody}
    yield Only(
        query=query, prefix="account ", names=frozenset(f"account {name}" for name in names | OWN),
        act=f'{tool} drop account "$NAME"',
    )  # fmt: skip
    yield Only(query=query, prefix="role ", names=frozenset(), act=f'{tool} drop role "$NAME"')
    # Privileges of nobody: rows left in the tables of privileges without an account.
    yield Only(
        query=query, prefix="grants ", names=frozenset(f"grants {name}" for name in names),
        act=f'{tool} drop grants "$NAME"',
    )  # fmt: skip


def _requires(ctx: Context, query: Query, sql: str, login: Login) -> Parameter:
    """The certificate that is wanted: set when everybody shows it, taken back before anybody does not."""
    wanted = mysql_tls.subject(ctx, login.role) if login.role and mysql_tls.shut(ctx) else ""
    require = f"SUBJECT {literal(wanted)}" if wanted else "NONE"
    return Parameter(
        query=query, name=f"requires {login.name}", want=f"{mysql_tls.ONLY}{wanted}" if wanted else "nothing",
        act=_run(sql, f"ALTER USER {login.sql} REQUIRE {require};"), phase=Phase.LAST if wanted else Phase.STATE,
    )  # fmt: skip


def _run(sql: str, statements: str) -> str:
    return f"{sql} <<'SQL'\n{statements}\nSQL"


def declared(login: Login, passwords: list[str]) -> str:
    """SQL that makes an account, or one that is there into this one. passwords: as `kept`; none: by its socket."""
    # Two are two ways to log in; a client that fails by the first is asked to try the second (measured on 10.11.19
    # with the clients that come here: mysqlnd, PyMySQL, Connector/C, and the server's own for replication).
    ways = " OR ".join(f"mysql_native_password USING '{one}'" for one in passwords) or "unix_socket"
    way = f"IDENTIFIED VIA {ways}"
    free = (
        "WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 "
        "MAX_USER_CONNECTIONS 0 MAX_STATEMENT_TIME 0 PASSWORD EXPIRE DEFAULT ACCOUNT UNLOCK"
    )
    return f"CREATE USER IF NOT EXISTS {login.sql} {way};\nALTER USER {login.sql} {way} {free};"


def _grant(ctx: Context, sql: str, tool: str, login: Login) -> str:
    """Grant what is missing, then revoke one by one what is too much: nothing needed is ever gone on the way."""
    give = "\n".join(
        f"GRANT {', '.join(privileges)} ON {scope} TO {login.sql};" for scope, privileges in login.grants.items()
    )
    if not login.secret:
        # The package made it, with everything; what it may as others' proxy cannot be revoked.
        give = f"DROP USER IF EXISTS {login.sql};\n{declared(login, [])}\n{give}"
    granted = [
        f"({literal(scope)}, {literal(privilege)})"
        for scope, privileges in login.grants.items()
        for privilege in privileges
    ]
    too_much = ctx.render("mysql/revoke.sql.j2", who=literal(login.name), granted=granted)
    return f"{_run(sql, give)}\n{_run(f'{tool} revoke', too_much.strip())}"
