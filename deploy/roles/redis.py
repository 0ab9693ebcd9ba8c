"""Redis: `cache`, which evicts, and `sessions`, which never does; one primary and its replicas each.

Redis rewrites its configuration (CONFIG REWRITE, by Sentinel at a failover), so each instance has two files:
state.conf, written once and then Redis's own, and managed.conf, ours, loaded last and therefore stronger. The two
instances fail over each by itself, so they may have their primaries on different hosts.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.profiles import UPSTREAM
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
from deploy.model.secrets import SecretSpec
from deploy.model.ways import Way
from deploy.roles import redis_exporter, redis_rolling
from deploy.roles.common import CA_FILE, certificate, pair
from deploy.roles.redis_cli import ADMIN_FILE, caller, client, found_once, otherwise
from deploy.roles.redis_listeners import listeners, record, written
from deploy.roles.redis_members import INSTANCES, cluster_of, clusters, standings

__all__ = ["ADMIN_FILE", "INSTANCES", "SECRETS", "clusters", "desired", "standings", "ways"]

PROGRAM = "/usr/bin/redis-server"
"""What three units of a host may run: when one of them has a new version installed, the others are owed a restart."""

SECRETS: Mapping[str, SecretSpec] = {
    "redis/admin": SecretSpec("password", "Redis: the deployment's own user, on the host itself"),
    "redis/replica": SecretSpec("password", "Redis: replicas to their primary"),
    "redis/app": SecretSpec("password", "Redis: frontend, broadcaster"),
    "redis/proxy": SecretSpec("password", "Redis: HAProxy asks who is primary"),
    "redis/sentinel": SecretSpec("password", "Redis: Sentinel watches and fails over"),
    "redis/probe": SecretSpec("password", "Redis: the health check from outside, PING alone"),
}

APP_COMMANDS = "+get +set +del +unlink +scan +eval +evalsha +incr +expire +ttl +exists +ping +echo +wait"
APP_KEYS = {
    "cache": "~problem:* ~scoreboard:* ~ratelimit:* ~school_rank:* ~tags:*",
    "sessions": "~session:*",
}
"""The spec's key patterns: the application cannot touch anything else."""

UPSTREAM_RULES = (
    "~* resetchannels -@all +@read +@write +@transaction +eval +evalsha +auth +hello +select +ping +echo -@dangerous"
)
"""The real site logs in with a password and no name, and begins its keys with a number (Cache.php)."""

SENTINEL_COMMANDS = (
    "&* -@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname "
    "+client|kill +script|kill"
)
"""As Redis's documentation of Sentinel lists them; the channel is __sentinel__:hello."""

PROBE = "probe"

RESTART_ONLY = frozenset({"tcp-backlog", "databases"})
"""Parameters that CONFIG SET refuses (measured on 7.0.15)."""


def min_replicas(ctx: Context) -> int:
    """Replicas that must keep up for the primary to take writes: never more than there are members to be one."""
    return min(ctx.settings.redis.min_replicas_to_write, len(ctx.fleet.members("redis")) - 1)


def parameters(ctx: Context, instance: str) -> dict[str, str]:
    """Running parameters, as CONFIG GET prints them."""
    settings = ctx.settings.redis
    cache = instance == "cache"
    return {
        "maxmemory": str(settings.maxmemory if cache else settings.sessions_maxmemory),
        "maxmemory-policy": settings.maxmemory_policy if cache else "noeviction",
        "tcp-keepalive": str(settings.tcp_keepalive),
        "appendonly": "yes" if settings.appendonly else "no",
        "appendfsync": settings.appendfsync,
        "save": "3600 1 300 100 60 10000",
        "maxclients": str(settings.maxclients),
        "timeout": str(settings.timeout),
        "repl-backlog-size": str(settings.repl_backlog_size),
        "repl-diskless-sync": "yes",
        # A primary that was started again takes no write before a replica has caught up: so not the usual 5 s of
        # waiting for more of them, but no longer than until all are there.
        "repl-diskless-sync-delay": "1",
        "repl-diskless-sync-max-replicas": str(max(0, len(ctx.fleet.members("redis")) - 1)),
        "min-replicas-to-write": str(min_replicas(ctx)),
        "min-replicas-max-lag": str(settings.min_replicas_max_lag),
        "replica-priority": str(settings.replica_priority),
        "replica-announce-ip": ctx.host.address,
        "slowlog-log-slower-than": str(settings.slowlog_slower_than),
        "masteruser": "replica",
        "masterauth": ctx.secret("redis/replica"),
        "tcp-backlog": str(settings.tcp_backlog),
        "databases": str(settings.databases),
    }


def packages() -> Iterator[Package]:
    for name in ("redis-server", "redis-tools"):
        yield Package(name=name, source=redis_rolling.SOURCE)


def desired(ctx: Context) -> Iterable[Resource]:
    yield from packages()
    yield File(path=ADMIN_FILE, content=ctx.secret("redis/admin") + "\n", mode=0o400, secret=True)
    yield certificate(ctx, "redis")
    # Debian's own single instance would take the cache's port with an open configuration.
    yield Unit(name="redis-server.service", running=False, enabled=False, masked=True)
    for instance in INSTANCES:
        yield from _instance(ctx, instance)


def _instance(ctx: Context, instance: str) -> Iterator[Resource]:
    port = SERVICES["redis"].port(instance).number
    settings = ctx.settings
    folder = f"/etc/redis/{instance}"
    yield Directory(path=folder, owner="redis", group="redis", mode=0o750)
    yield Directory(path=f"/var/lib/redis/{instance}", owner="redis", group="redis", mode=0o750)
    values = parameters(ctx, instance)
    yield File(
        path=f"{folder}/state.conf",
        content=ctx.render("redis/state.conf.j2", primary=_primary(ctx, instance), port=port),
        owner="redis", group="redis", mode=0o600, once=True,
    )  # fmt: skip
    yield File(
        path=f"{folder}/managed.conf",
        content=ctx.render(
            "redis/managed.conf.j2", instance=instance, values=values, folder=folder, address=ctx.host.address,
            listeners=written(ctx.host, instance),
        ),
        owner="root", group="redis", mode=0o640, secret=True,
    )  # fmt: skip
    yield File(
        path=f"{folder}/users.acl",
        content="".join(f"user {name} {rules}\n" for name, rules in acl(ctx, instance).items()),
        owner="root", group="redis", mode=0o640, secret=True,
    )  # fmt: skip
    yield File(
        path=f"/etc/systemd/system/redis-{instance}.service",
        content=ctx.render(
            "redis/redis.service.j2", instance=instance, folder=folder, nofile=settings.base.service_nofile,
            port=port,
        ),
    )  # fmt: skip
    yield Unit(
        name=f"redis-{instance}.service", rolling=True,
        restart_files=(f"/etc/systemd/system/redis-{instance}.service", PROGRAM),
        start_files=(f"{folder}/managed.conf", f"{folder}/users.acl"),
    )  # fmt: skip
    yield from _running(ctx, instance, port, values, folder)


def ways(ctx: Context) -> Iterator[Way]:
    sentinel = client(ctx.host, "sentinel")
    for instance in INSTANCES:
        port = SERVICES["redis"].port(instance).number
        yield redis_rolling.way(ctx, instance, port, client(ctx.host, instance), sentinel, min_replicas(ctx))


def acl(ctx: Context, instance: str) -> dict[str, str]:
    """User -> rules, as the ACL file has them."""

    def user(secret: str, allowed: str) -> str:
        return f"on {passwords(ctx, secret)} {allowed}"

    default = "off resetchannels -@all"
    if ctx.fleet.profile is UPSTREAM and instance == "cache":
        default = user("redis/app", UPSTREAM_RULES)
    return {
        "default": default,
        "fleet": user("redis/admin", "~* &* +@all"),
        "replica": user("redis/replica", "resetchannels -@all +psync +replconf +ping"),
        "app": user("redis/app", f"{APP_KEYS[instance]} resetchannels -@all {APP_COMMANDS}"),
        "proxy": user("redis/proxy", "resetchannels -@all +info"),
        "sentinel": user("redis/sentinel", SENTINEL_COMMANDS),
        redis_exporter.USER: user("redis/exporter", redis_exporter.COMMANDS),
        PROBE: user("redis/probe", "resetchannels -@all +ping"),
    }


def passwords(ctx: Context, secret: str) -> str:
    """What a user may log in with, as the ACL file has it: two passwords while one takes the other's place."""
    return " ".join(f"#{hashlib.sha256(one.value.encode()).hexdigest()}" for one in ctx.accepts(secret))


INFO = (
    "role", "master_host", "master_link_status", "connected_slaves", "min_slaves_good_slaves", "master_repl_offset",
    "slave_repl_offset", "slave_read_repl_offset", "loading", "rdb_bgsave_in_progress", "aof_rewrite_in_progress",
    "aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status",
)  # fmt: skip
"""What is read of INFO replication and persistence."""


def query(ctx: Context, instance: str) -> Query:
    """All that an instance is asked in a look."""
    cluster = cluster_of(instance)
    first, cli = found_once(ctx.host, instance)
    script = ctx.render(
        "redis/ask.sh.j2", first=first, cli=cli, folder=f"/etc/redis/{instance}", info=INFO,
        parameters=parameters(ctx, instance), listeners=listeners(ctx.host, instance), record=record(cluster),
        loaded=_loaded(cluster), files=_files(),
    )  # fmt: skip
    return Query(cluster, script, f"{cluster}.service")


def _files() -> tuple[str, ...]:
    """What it verifies others with, and shows them."""
    return CA_FILE, pair("redis")[0]


def _loaded(cluster: str) -> str:
    """The hashes of those files as it has loaded them last. A start loads what is there, so it is never behind them."""
    return f"/var/lib/fleet/{cluster}.tls"


def _running(ctx: Context, instance: str, port: int, values: Mapping[str, str], folder: str) -> Iterator[Resource]:
    cli = client(ctx.host, instance)
    unit = f"redis-{instance}.service"
    config = query(ctx, instance)
    for name, value in values.items():
        secret = name == "masterauth"
        restart = name in RESTART_ONLY
        act = "" if restart else f"printf %s {shlex.quote(value)} | {cli} -e -x CONFIG SET {name} >/dev/null"
        # Not before there are replicas to keep up: writes would be refused until then.
        first = name == "min-replicas-to-write" and ctx.leads(cluster_of(instance)) and value != "0"
        yield Parameter(
            query=config, name=name, want=value, secret=secret, at_start=True,
            step=StepClass.RESTART if restart else StepClass.HOT, phase=Phase.MEMBERS if first else Phase.STATE,
            act=f"{_replicas_keep_up(cli, int(value))}\n{act}" if first else act,
        )  # fmt: skip
    yield users(f"redis-{instance}", cli, unit, f"{folder}/users.acl")
    primary = _primary(ctx, instance)
    yield Parameter(
        query=config, name="info-master_host", want=primary, at_start=True,
        act=_follow(cli, caller(ctx.host, instance, primary), primary, port) if primary
        else "echo 'it follows another now: roles have moved since this run began; run apply again'; exit 1",
    )  # fmt: skip
    yield _departed(ctx, config, cli)
    if ctx.settings.redis.tls:
        yield _certificate(config, cli, cluster_of(instance))
    if primary:
        yield Parameter(
            query=config, name="info-master_link_status", want="up", phase=Phase.MEMBERS, act=f"""\
n=0
until {cli} INFO replication | grep -q '^master_link_status:up'; do
  # One that begins while TLS is being turned on or off gets its link later in this run (redis_transport).
  if {otherwise(ctx.host, instance, primary)}; then exit 0; fi
  n=$((n + 1))
  [ $n -lt 600 ] || {{ echo 'after 5 minutes still not in step with {primary}'; exit 1; }}
  sleep 0.5
done""",
        )  # fmt: skip


def _certificate(config: Query, cli: str, cluster: str) -> Parameter:
    """Another key pair, or another CA, while it runs. A pair that does not match is refused, and the old one stays."""
    (crt, key), record = pair("redis"), _loaded(cluster)
    return Parameter(
        query=config, name="files", want="loaded", label=f"{cluster}: certificate", loads=(*_files(), key),
        at_start=True, step=StepClass.HOT,
        act=f"{cli} -e CONFIG SET tls-cert-file {crt} tls-key-file {key} tls-ca-cert-file {CA_FILE} >/dev/null\n"
        f"umask 077\nsha256sum {' '.join(_files())} >{record}.new\nmv -f {record}.new {record}",
    )  # fmt: skip


def _follow(cli: str, there: str, primary: str, port: int) -> str:
    """Never on what was true when the run began: Sentinel may have moved the role since.

    A primary that was replaced answers as one again until Sentinel, some ten seconds later, makes it follow.
    """
    return f"""\
here() {{ {cli} ROLE | head -n 1; }}
there() {{ {there} ROLE | head -n 1; }}
n=0
while [ $n -lt 60 ] && [ "$(there)" = master ] && [ "$(here)" = master ]; do
  n=$((n + 1))
  sleep 0.5
done
if [ "$(here)" = master ] || [ "$(there)" != master ]; then
  echo 'roles have moved since this run began: {primary} is not the one primary; run apply again'
  exit 1
fi
{cli} -e REPLICAOF {primary} {port} >/dev/null
{cli} -e CONFIG REWRITE >/dev/null"""


def _departed(ctx: Context, config: Query, cli: str) -> Only:
    """Whoever left the fleet and still replicates: its acknowledgements would count, and sentinels would find it."""
    members = frozenset(f"replica {host.address}" for host in ctx.fleet.members("redis"))
    return Only(
        query=config, prefix="replica ", names=members, phase=Phase.STATE,
        act=f"""\
{cli} CLIENT LIST TYPE replica | sed -n 's/.* addr=\\([^ ]*\\) .*/\\1/p' | while read -r address; do
  [ "${{address%:*}}" != "$NAME" ] || {cli} -e CLIENT KILL ADDR "$address" >/dev/null
done""",
    )  # fmt: skip


def _replicas_keep_up(cli: str, wanted: int) -> str:
    return f"""\
n=0
until [ "$({cli} INFO replication | grep -c '^slave.*state=online')" -ge {wanted} ]; do
  n=$((n + 1))
  [ $n -lt 600 ] || {{ echo 'after 5 minutes fewer than {wanted} replicas keep up'; exit 1; }}
  sleep 0.5
done"""


# A rule's words come in another order from every process; one is there after a reset and not after a start, with the
# same meaning.
SORTED_WORDS = (
    "sed 's/ sanitize-payload / /' | "
    'awk \'{ n = split($0, w, " "); for (i = 3; i < n; i++) for (j = i + 1; j <= n; j++) '
    "if (w[j] < w[i]) { t = w[i]; w[i] = w[j]; w[j] = t } for (i = 1; i <= n; i++) $i = w[i]; print }'"
)


def users(name: str, cli: str, unit: str, file: str) -> Parameter:
    """The running ACL rules.

    How ACL LIST prints a rule differs between versions, so what it printed right after the file was loaded is kept,
    with the file's hash, and compared with what it prints now. Set one by one: ACL LOAD cuts every connection, those
    of the replicas too (measured on 7.0.15), and the primary would refuse writes until they are back.
    """
    record = f"/var/lib/fleet/{name}.acl"
    take = f"{{ sha256sum <{file}; {cli} -e ACL LIST | {SORTED_WORDS} | LC_ALL=C sort; }}"
    return Parameter(
        query=Query(
            f"{name}-acl",
            f"live=$({take})\n[ -f {record} ] || {{ printf 'users\\tnever loaded\\n'; exit 0; }}\n"
            f"differ=$(printf '%s\\n' \"$live\" | diff {record} - | sed -n 's/^[<>] user \\([^ ]*\\).*/\\1/p')\n"
            f"if printf '%s\\n' \"$live\" | cmp -s {record} -; then printf 'users\\tas in {file}\\n'\n"
            "else printf 'users\\tdiffer: %s\\n' \"$(echo ${differ:-the file})\"; fi",
            unit,
        ),
        name="users", want=f"as in {file}", loads=(file,), label=f"{name}: users",
        act=f"""\
{cli} -e PING >/dev/null
said=$({{ sed -n 's/^user \\([^ ]*\\) /ACL SETUSER \\1 reset /p' {file}
  {cli} -e ACL USERS | grep -vxF "$(sed -n 's/^user \\([^ ]*\\) .*/\\1/p' {file})" | sed 's/^/ACL DELUSER /'
}} | {cli} | grep -vxE 'OK|1|' || true)
[ -z "$said" ] || {{ printf '%s\\n' "$said" | head -n 3; exit 1; }}
umask 077
{take} >{record}.new
mv -f {record}.new {record}""",
    )  # fmt: skip


def _primary(ctx: Context, instance: str) -> str | None:
    """Address to follow; None on the primary itself."""
    name = cluster_of(instance)
    return None if ctx.leads(name) else ctx.leader(name).address
