"""Redis: `cache`, which evicts, and `sessions`, which never does; one primary and its replicas each.

Redis rewrites its configuration (CONFIG REWRITE, later Sentinel), so each instance has two files: state.conf, written
once and then Redis's own, and managed.conf, ours, loaded last and therefore stronger.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping

from deploy.errors import FleetError
from deploy.model.catalog import SERVICES
from deploy.model.fleet import Cluster, Context
from deploy.model.observed import Snapshot
from deploy.model.resources import Directory, File, Package, Parameter, Query, Resource, StepClass, Unit
from deploy.model.secrets import SecretSpec

INSTANCES = ("cache", "sessions")
ADMIN_FILE = "/etc/fleet/redis.auth"

SECRETS: Mapping[str, SecretSpec] = {
    "redis/admin": SecretSpec("password", "Redis: the deployment's own user, on the host itself"),
    "redis/replica": SecretSpec("password", "Redis: replicas to their primary"),
    "redis/app": SecretSpec("password", "Redis: frontend, broadcaster"),
}

APP_COMMANDS = "+get +set +del +unlink +scan +eval +evalsha +incr +expire +ttl +exists +ping +echo"
APP_KEYS = {
    "cache": "~problem:* ~scoreboard:* ~ratelimit:* ~school_rank:* ~tags:*",
    "sessions": "~session:*",
}
"""The spec's key patterns: the application cannot touch anything else."""

RESTART_ONLY = frozenset({"tcp-backlog", "databases"})
"""Parameters that CONFIG SET refuses (measured on 7.0.15)."""


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
        "maxclients": str(settings.maxclients),
        "timeout": str(settings.timeout),
        "repl-backlog-size": str(settings.repl_backlog_size),
        "repl-diskless-sync": "yes",
        "slowlog-log-slower-than": str(settings.slowlog_slower_than),
        "masteruser": "replica",
        "masterauth": ctx.secret("redis/replica"),
        "tcp-backlog": str(settings.tcp_backlog),
        "databases": str(settings.databases),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    yield Package(name="redis-server")
    yield Package(name="redis-tools")
    yield File(path=ADMIN_FILE, content=ctx.secret("redis/admin") + "\n", mode=0o400, secret=True)
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
        owner="redis", group="redis", mode=0o640, once=True,
    )  # fmt: skip
    yield File(
        path=f"{folder}/managed.conf",
        content=ctx.render("redis/managed.conf.j2", instance=instance, port=port, values=values, folder=folder),
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
    yield Unit(name=f"redis-{instance}.service", rolling=True, restart_files=())
    yield from _running(ctx, instance, port, values, folder)


def acl(ctx: Context, instance: str) -> dict[str, str]:
    """User -> rules, as the ACL file has them."""

    def user(secret: str, allowed: str) -> str:
        return f"on #{hashlib.sha256(ctx.secret(secret).encode()).hexdigest()} {allowed}"

    return {
        "default": "off resetchannels -@all",
        "fleet": user("redis/admin", "~* &* +@all"),
        "replica": user("redis/replica", "resetchannels -@all +psync +replconf +ping"),
        "app": user("redis/app", f"{APP_KEYS[instance]} resetchannels -@all {APP_COMMANDS}"),
    }


def client(port: int) -> str:
    """redis-cli as the deployment's user; the password goes through the environment, which only root can read."""
    return f"REDISCLI_AUTH=$(cat {ADMIN_FILE}) redis-cli --no-auth-warning --user fleet -p {port}"


def _running(ctx: Context, instance: str, port: int, values: Mapping[str, str], folder: str) -> Iterator[Resource]:
    cli = client(port)
    unit = f"redis-{instance}.service"
    config = Query(
        f"redis-{instance}",
        f"config=$({cli} -e CONFIG GET {' '.join(values)})\n"
        f"replication=$({cli} -e INFO replication)\n"
        "printf '%s\\n' \"$config\" | paste -d '\\t' - -\n"
        "printf '%s\\n' \"$replication\" | tr -d '\\r' | sed -n 's/^\\(role\\|master_host\\):/info-\\1\\t/p'",
        unit,
    )
    for name, value in values.items():
        secret = name == "masterauth"
        restart = name in RESTART_ONLY
        yield Parameter(
            query=config, name=name, want=value, secret=secret, at_start=True,
            step=StepClass.RESTART if restart else StepClass.HOT,
            act="" if restart else f"printf %s {shlex.quote(value)} | {cli} -e -x CONFIG SET {name} >/dev/null",
        )  # fmt: skip
    yield _users(instance, cli, unit, folder)
    primary = _primary(ctx, instance)
    yield Parameter(
        query=config, name="info-master_host", want=primary, at_start=True,
        act=f"{cli} -e REPLICAOF {primary} {port} >/dev/null\n{cli} -e CONFIG REWRITE >/dev/null" if primary
        else f"echo 'redis-{instance} follows somebody although it is the primary'; exit 1",
    )  # fmt: skip


def _users(instance: str, cli: str, unit: str, folder: str) -> Parameter:
    """The running ACL rules.

    How ACL LIST prints a rule differs between versions, so what it printed right after the file was loaded is kept,
    with the file's hash, and compared with what it prints now.
    """
    file, record = f"{folder}/users.acl", f"/var/lib/fleet/redis-{instance}.acl"
    take = f"{{ sha256sum <{file}; {cli} -e ACL LIST | LC_ALL=C sort; }}"
    return Parameter(
        query=Query(
            f"redis-{instance}-acl",
            f"live=$({take})\n[ -f {record} ] || {{ printf 'users\\tnever loaded\\n'; exit 0; }}\n"
            f"differ=$(printf '%s\\n' \"$live\" | diff {record} - | sed -n 's/^[<>] user \\([^ ]*\\).*/\\1/p')\n"
            f"if printf '%s\\n' \"$live\" | cmp -s {record} -; then printf 'users\\tas in {file}\\n'\n"
            "else printf 'users\\tdiffer: %s\\n' \"$(echo ${differ:-the file})\"; fi",
            unit,
        ),
        name="users", want=f"as in {file}", loads=(file,), label=f"redis-{instance}: users",
        act=f"{cli} -e ACL LOAD >/dev/null\numask 077\n{take} >{record}.new\nmv -f {record}.new {record}",
    )  # fmt: skip


def cluster(instance: str) -> str:
    return f"redis-{instance}"


def _primary(ctx: Context, instance: str) -> str | None:
    """Address to follow; None on the primary itself."""
    return None if ctx.leads(cluster(instance)) else ctx.leader(cluster(instance)).address


def clusters(ctx: Context, seen: Mapping[str, Snapshot]) -> Mapping[str, Cluster]:
    """Who is primary of each instance, as the members say.

    Raises:
        FleetError: more than one claims to be, or there are only replicas.
    """
    return {cluster(instance): _cluster(ctx, seen, instance) for instance in INSTANCES}


def _cluster(ctx: Context, seen: Mapping[str, Snapshot], instance: str) -> Cluster:
    masters = []
    for member in ctx.fleet.members("redis"):
        snapshot = seen.get(member.name)
        unit = snapshot.units.get(f"redis-{instance}.service") if snapshot else None
        answer = snapshot.answers.get(f"redis-{instance}") if snapshot else None
        # A stranger on the port of a stopped member has no say.
        if unit and unit.running and answer and answer.ok and answer.values.get("info-role") == "master":
            masters.append(member.name)
    if len(masters) > 1:
        raise FleetError(
            subject=f"redis-{instance}",
            found=f"{len(masters)} primaries: {', '.join(masters)}",
            expected="one primary among the members",
            hint="find out which has the data, make the others follow it (REPLICAOF), then run again",
        )
    return Cluster(masters[0] if masters else None)
