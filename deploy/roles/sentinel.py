"""Redis Sentinel: watches both instances, and makes a replica the primary when the primary is gone.

sentinel.conf is written once: from then on it is Sentinel's own (who is primary, which replicas and sentinels there
are, epochs). What is ours in it is changed through SENTINEL SET, on each sentinel; how it listens and speaks to others
is in managed.conf, loaded last. It takes neither that nor another certificate while it runs: a restart does, by roll.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import STAMPS, Directory, File, Parameter, Phase, Query, Resource, Unit
from deploy.model.secrets import SecretSpec
from deploy.model.ways import Way
from deploy.roles import redis_exporter, redis_rolling
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.redis import PROGRAM, packages, passwords, users
from deploy.roles.redis_cli import ADMIN_FILE, client, found_once, tls
from deploy.roles.redis_listeners import written
from deploy.roles.redis_members import INSTANCES, SENTINEL_QUERY, cluster_of

UNIT = "redis-sentinel.service"
FOLDER = "/etc/redis/sentinel"
MANAGED = f"{FOLDER}/managed.conf"
DATA = "/var/lib/redis/sentinel"

SECRETS: Mapping[str, SecretSpec] = {
    "sentinel/peer": SecretSpec("password", "Sentinel: sentinels among themselves"),
}


def quorum(ctx: Context) -> int:
    """Sentinels that must agree that a primary is down: the majority."""
    return len(ctx.fleet.members("sentinel")) // 2 + 1


def parameters(ctx: Context) -> dict[str, str]:
    """What SENTINEL SET takes, for each instance, as SENTINEL MASTER prints it."""
    settings = ctx.settings.sentinel
    return {
        "quorum": str(quorum(ctx)),
        "down-after-milliseconds": str(int(settings.down_after * 1000)),
        "failover-timeout": str(int(settings.failover_timeout * 1000)),
        "parallel-syncs": str(settings.parallel_syncs),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    yield from packages()
    port = SERVICES["sentinel"].port("sentinel").number
    yield File(path=ADMIN_FILE, content=ctx.secret("redis/admin") + "\n", mode=0o400, secret=True)
    pair = certificate(ctx, "sentinel")
    yield pair
    yield Directory(path=FOLDER, owner="redis", group="redis", mode=0o750)
    yield Directory(path=DATA, owner="redis", group="redis", mode=0o750)
    yield File(
        path=f"{FOLDER}/sentinel.conf", owner="redis", group="redis", mode=0o600, once=True, secret=True,
        content=ctx.render(
            "sentinel/sentinel.conf.j2", port=port, address=ctx.host.address, folder=FOLDER, data=DATA,
            peer=ctx.secret("sentinel/peer"), password=ctx.secret("redis/sentinel"), values=parameters(ctx),
            monitored={name: (_primary(ctx, name), _port(name)) for name in INSTANCES},
        ),
    )  # fmt: skip
    yield File(
        path=MANAGED, group="redis", mode=0o640,
        content=ctx.render("sentinel/managed.conf.j2", listeners=written(ctx.host, "sentinel")),
    )  # fmt: skip
    yield File(
        path=f"{FOLDER}/users.acl", group="redis", mode=0o640, secret=True,
        content="".join(f"user {name} {rules}\n" for name, rules in acl(ctx).items()),
    )  # fmt: skip
    yield File(
        path=f"/etc/systemd/system/{UNIT}",
        content=ctx.render(
            "sentinel/redis-sentinel.service.j2",
            folder=FOLDER,
            managed=MANAGED,
            data=DATA,
            nofile=ctx.settings.base.service_nofile,
        ),
    )
    yield Unit(
        name=UNIT,
        rolling=True,
        restart_files=(
            f"/etc/systemd/system/{UNIT}",
            PROGRAM,
            MANAGED,
            *((pair.certificate_path, CA_FILE) if ctx.settings.redis.tls else ()),
        ),
        start_files=(f"{FOLDER}/users.acl",),
    )
    yield from _running(ctx, client(ctx.host, "sentinel"))


def ways(ctx: Context) -> Iterator[Way]:
    yield redis_rolling.sentinel_way(UNIT, INSTANCES)


def acl(ctx: Context) -> dict[str, str]:
    """User -> rules of Sentinel itself."""

    def user(secret: str, allowed: str) -> str:
        return f"on {passwords(ctx, secret)} {allowed}"

    return {
        "default": "off resetchannels -@all",
        "fleet": user("redis/admin", "~* &* +@all"),
        "peer": user("sentinel/peer", "&* -@all +auth +client|getname +client|id +client|setname +command +hello +ping "
                     "+role +sentinel|get-master-addr-by-name +sentinel|master +sentinel|myid +sentinel|replicas "
                     "+sentinel|sentinels +sentinel|is-master-down-by-addr +publish +subscribe"),
        redis_exporter.USER: user("redis/exporter", redis_exporter.SENTINEL_COMMANDS),
    }  # fmt: skip


def _primary(ctx: Context, instance: str) -> str:
    return ctx.leader(cluster_of(instance)).address


def _port(instance: str) -> int:
    return SERVICES["redis"].port(instance).number


def _running(ctx: Context, cli: str) -> Iterator[Resource]:
    values = parameters(ctx)
    first, asked = found_once(ctx.host, "sentinel")
    query = Query(
        SENTINEL_QUERY,
        ctx.render(
            "sentinel/ask.sh.j2",
            first=first,
            cli=asked,
            instances=INSTANCES,
            fields=("ip", *values),
            port=SERVICES["sentinel"].port("sentinel").number,
            tls=tls("sentinel"),
        ),
        UNIT,
    )
    yield users("sentinel", cli, UNIT, f"{FOLDER}/users.acl")
    yield peer(ctx, cli)
    for instance in INSTANCES:
        monitor = f"{cli} -e SENTINEL MONITOR {instance} {_primary(ctx, instance)} {_port(instance)} {quorum(ctx)}"
        yield Parameter(
            query=query, name=f"{instance} monitored", want="yes", label=f"sentinel: {instance}",
            act=f"{monitor} >/dev/null",
        )  # fmt: skip
        for name, value in values.items():
            yield Parameter(
                query=query, name=f"{instance} {name}", want=value, label=f"sentinel: {instance} {name}",
                act=f"{cli} -e SENTINEL SET {instance} {name} {value} >/dev/null",
            )  # fmt: skip
        yield _password(ctx, cli, instance)
        yield from _circle(ctx, query, cli, instance)


def peer(ctx: Context, cli: str) -> Parameter:
    """What it comes to other sentinels with. Its file had that at its birth, and is its own since."""
    digest = hashlib.sha256(ctx.secret("sentinel/peer").encode()).hexdigest()
    ask = f"{cli} -e SENTINEL CONFIG GET sentinel-pass"
    return Parameter(
        query=Query(
            "sentinel-peer", f"said=$({ask})\nprintf 'password\\t%s\\n' "
            "\"$(printf '%s\\n' \"$said\" | tail -n 1 | tr -d '\\n' | sha256sum | cut -d ' ' -f 1)\"", UNIT,
        ),
        name="password", want=digest, secret=True, at_start=True, label="sentinel: password for the others",
        act=f"printf %s {ctx.secret('sentinel/peer')} | {cli} -e -x SENTINEL CONFIG SET sentinel-pass >/dev/null",
    )  # fmt: skip


def _password(ctx: Context, cli: str, instance: str) -> Parameter:
    """Sentinel does not print the password it uses: what was set last is remembered by its hash."""
    record = f"/var/lib/fleet/sentinel-{instance}.password"
    digest = hashlib.sha256(f"sentinel {ctx.secret('redis/sentinel')}".encode()).hexdigest()
    return Parameter(
        query=Query(
            f"sentinel-{instance}-password", f"printf 'password\\t%s\\n' \"$(cat {record} 2>/dev/null || true)\""
        ),
        name="password", want=digest, secret=True, label=f"sentinel: {instance} password",
        act=f"{cli} -e SENTINEL SET {instance} auth-user sentinel >/dev/null\n"
        f"printf %s {ctx.secret('redis/sentinel')} | {cli} -e -x SENTINEL SET {instance} auth-pass >/dev/null\n"
        f"umask 077\nprintf '%s\\n' {digest} >{record}",
    )  # fmt: skip


def _circle(ctx: Context, query: Query, cli: str, instance: str) -> Iterator[Resource]:
    """Whom it knows: neither fewer, nor one that has left the fleet, whom it would go on waiting for.

    To forget, a sentinel is reset, which makes it look for everybody again: so one at a time, and not while the
    others could not do without it.
    """
    everybody = [host.name for host in ctx.fleet.members("sentinel")]
    primary = ctx.leader(cluster_of(instance)).name
    circles = {
        "replicas": [host.address for host in ctx.fleet.members("redis") if host.name != primary],
        "sentinels": [host.address for host in ctx.fleet.members("sentinel") if host.name != ctx.host.name],
    }
    for kind, addresses in circles.items():
        yield Parameter(
            query=query, name=f"{instance} {kind}", want=" ".join(sorted(addresses)), phase=Phase.MEMBERS,
            label=f"sentinel: {instance} {kind}",
            act=ctx.render(
                "sentinel/circle.sh.j2", cli=cli, instance=instance, kind=kind, wanted=" ".join(sorted(addresses)),
                primary=_primary(ctx, instance), turn=everybody.index(ctx.host.name),
            ),
        )  # fmt: skip
    yield Parameter(
        query=query, name=f"{instance} decides", want="OK", phase=Phase.MEMBERS,
        label=f"sentinel: {instance} can decide",
        act=f"""\
# What has ended with its certificate watches over nothing: nobody loses it, and it cannot wait for roll, which would
# wait for it.
if ! {cli} -e SENTINEL CKQUORUM {instance} >/dev/null 2>&1 && {_outdated(UNIT)}; then
  systemctl restart -- {UNIT} 9>&-
fi
n=0
until said=$({cli} -e SENTINEL CKQUORUM {instance} 2>&1); do
  n=$((n + 1))
  [ $n -lt 60 ] || {{ printf '%s\\n' "$said"; exit 1; }}
  sleep 0.5
done""",
    )  # fmt: skip


def _outdated(unit: str) -> str:
    """A test that succeeds if the unit has not loaded what lies on the disk (see Unit)."""
    return f"! sed 's/\\t/  /' {STAMPS}/{unit} | sha256sum -c --status"
