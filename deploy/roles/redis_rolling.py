"""How Redis and Sentinel are rolled: replicas first; the primary only after a planned failover that loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context, HostSpec
from deploy.model.observed import Answer
from deploy.model.ways import Act, Gate, Heir, View, Way
from deploy.roles import gates
from deploy.roles.redis_cli import client
from deploy.roles.redis_members import SENTINEL_QUERY, cluster_of, standings

SOURCE = "redis"
"""Debian's source package of the server and of Sentinel."""
PAUSE_SECONDS = 15
"""A primary that hands over takes no writes for so long at most; then it goes on by itself."""
BEHIND = 1 << 20
"""Bytes that a replica may be behind, seen by two questions a moment apart, to count as in step."""

PREFERRED = 1
"""The priority of a replica that is to get the lead; 0 would be never."""

_NOTHING = Answer({}, "was not asked")


def way(ctx: Context, instance: str, port: int, redis_cli: str, sentinel_cli: str, keep_up: int) -> Way:
    """One instance of Redis. keep_up: replicas without which the primary takes no writes."""
    cluster = cluster_of(instance)
    unit = f"{cluster}.service"
    return Way(
        name=cluster, service="redis", units=(unit,), cluster=cluster, witnesses=("sentinel",), source=SOURCE,
        gates=(
            gates.running("redis", (unit,)),
            gates.standing("replication", (cluster, f"{cluster} sentinels"), standings),
            Gate("in step", lambda view: _behind(view, cluster)),
            Gate("writes survive", lambda view: _too_few(view, cluster, keep_up), after=False),
            Gate("persistence", lambda view: _persistence(view, cluster)),
            gates.healthy(), gates.quick(), gates.silent(),
        ),
        hand_over=_hand_over(ctx, instance, port, redis_cli, sentinel_cli),
        undo=(Act(ctx.host.name, f"{redis_cli} -e CLIENT UNPAUSE >/dev/null"),),
        heirs=_heirs(ctx, instance), never_leads=_priority(ctx.host) == 0,
    )  # fmt: skip


def _values(view: View, host: str, query: str) -> dict[str, str]:
    return dict(view.seen[host].answers.get(query, _NOTHING).values)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else -1


def _behind(view: View, cluster: str) -> Iterator[str]:
    if view.leader is None:
        return
    there = _number(_values(view, view.leader, cluster).get("info-master_repl_offset"))
    for host in view.ctx.fleet.members("redis"):
        here = _number(_values(view, host.name, cluster).get("info-slave_repl_offset"))
        if host.name != view.leader and there - here > BEHIND:
            yield f"{host.name}: {there - here} bytes behind {view.leader}"


def _too_few(view: View, cluster: str, keep_up: int) -> Iterator[str]:
    """Without the member, the primary has as many replicas as it needs to take writes."""
    if view.leader is None or view.leader == view.member:
        return
    found = _number(_values(view, view.leader, cluster).get("info-min_slaves_good_slaves"))
    wanted = min(keep_up + 1, len(view.ctx.fleet.members("redis")) - 1)
    if keep_up and found < wanted:
        yield f"{view.leader}: {found} replicas keep up, {wanted} are needed to do without {view.member}"


def _persistence(view: View, cluster: str) -> Iterator[str]:
    for host in view.ctx.fleet.members("redis"):
        values = _values(view, host.name, cluster)
        for name, well in {"loading": "0", "aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok",
                           "rdb_last_bgsave_status": "ok", "rdb_bgsave_in_progress": "0",
                           "aof_rewrite_in_progress": "0"}.items():  # fmt: skip
            if (found := values.get(f"info-{name}", well)) != well:
                yield f"{host.name}: {name} is {found}"


def _hand_over(ctx: Context, instance: str, port: int, redis_cli: str, sentinel_cli: str) -> tuple[Act, ...]:
    """Pause the writes, wait until a replica has all of them, make Sentinel move the role, follow at once.

    Without the pause and the last step the old primary takes writes for ten seconds that nobody else ever gets.
    """
    decides = _decides(ctx)
    if not decides or len(ctx.fleet.members("redis")) < 2:
        return ()
    pause = f"""\
[ "$({redis_cli} -e ROLE | head -n 1)" = master ] || {{ echo 'it is no primary any more'; exit 1; }}
{redis_cli} -e CLIENT PAUSE {PAUSE_SECONDS * 1000} WRITE >/dev/null
n=0
until {redis_cli} -e INFO replication | tr -d '\\r' | awk -F '[=,:]' '
  /^slave[0-9]+:/ {{ for (i = 1; i < NF; i++) if ($i == "offset" && $(i + 1) > best) best = $(i + 1) }}
  /^master_repl_offset:/ {{ mine = $2 }}
  END {{ exit !(best != "" && best >= mine) }}'; do
  n=$((n + 1))
  [ $n -lt 30 ] || {{ echo 'no replica has caught up within 3 s'; exit 1; }}
  sleep 0.1
done
echo paused"""
    move = f"""\
now() {{ {sentinel_cli} -e SENTINEL GET-MASTER-ADDR-BY-NAME {instance} | head -n 1; }}
old=$(now)
said=$({sentinel_cli} -e SENTINEL FAILOVER {instance} 2>&1) || {{ echo "$said"; exit 1; }}
n=0
while [ "$(now)" = "$old" ]; do
  n=$((n + 1))
  [ $n -lt 80 ] || {{ echo 'no replica was made the primary within 8 s'; exit 1; }}
  sleep 0.1
done
now"""
    follow = f"""\
{redis_cli} -e REPLICAOF "$SAID" {port} >/dev/null
{redis_cli} -e CONFIG REWRITE >/dev/null
{redis_cli} -e CLIENT KILL TYPE normal >/dev/null
{redis_cli} -e CLIENT UNPAUSE >/dev/null
echo "follows $SAID\""""
    return Act(ctx.host.name, pause, 20), Act(decides, move, 20), Act(ctx.host.name, follow, 20)


def _decides(ctx: Context) -> str:
    """The host whose sentinel is told to move the role; empty: there is none."""
    sentinels = [host.name for host in ctx.fleet.members("sentinel")]
    return ctx.host.name if ctx.host.name in sentinels else next(iter(sentinels), "")


def _priority(host: HostSpec) -> int:
    return host.settings.redis.replica_priority


def _heirs(ctx: Context, instance: str) -> dict[str, Heir]:
    """Sentinel takes the replica of the lowest priority, and reads them all each ten seconds."""
    decides = _decides(ctx)
    return {
        host.name: Heir(
            (_ranked(host, instance, PREFERRED), Act(decides, _known(ctx.fleet.host(decides), host, instance), 60)),
            (_ranked(host, instance, _priority(host)),),
        )
        for host in ctx.fleet.members("redis")
        if decides and host.name != ctx.host.name and _priority(host) != 0
    }


def _ranked(host: HostSpec, instance: str, priority: int) -> Act:
    return Act(host.name, f"{client(host, instance)} -e CONFIG SET replica-priority {priority} >/dev/null", 20)


def _known(decides: HostSpec, heir: HostSpec, instance: str) -> str:
    """Wait until the sentinel that decides has read it; should that take too long, whoever it takes gets the lead."""
    return f"""\
n=0
until {client(decides, "sentinel")} -e SENTINEL REPLICAS {instance} | awk -v heir={heir.address} '
  $0 == "ip" {{ getline; here = $0 == heir }}
  $0 == "slave-priority" {{ getline; if (here && $0 == {PREFERRED}) known = 1 }}
  END {{ exit !known }}'; do
  n=$((n + 1))
  [ $n -lt 50 ] || break
  sleep 0.25
done"""


def sentinel_way(unit: str, instances: tuple[str, ...]) -> Way:
    """One sentinel at a time, behind CKQUORUM of all of them. Before Redis, whose primary they have to move: where TLS
    was turned on or off, one that was not restarted since reaches no member again that was.
    """
    return Way(
        name="redis-sentinel", service="sentinel", units=(unit,), witnesses=("redis",), source=SOURCE, ahead_of="redis",
        gates=(
            gates.running("sentinel", (unit,)),
            gates.standing("views", [f"{cluster_of(name)} sentinels" for name in instances], standings),
            Gate("quorum", lambda view: _no_quorum(view, instances)),
            Gate("health", _unwell, without=True), gates.quick(), gates.silent(),
        ),
    )  # fmt: skip


def _mixed(view: View) -> bool:
    """Some sentinels speak TLS and some do not, so that not all of them see one another: TLS is being turned on or off.

    All of them see every member of Redis meanwhile, since what was connected before its change stays connected.
    """
    everybody = view.ctx.fleet.members("sentinel")
    return len({_values(view, host.name, SENTINEL_QUERY).get("transport") for host in everybody} - {None}) > 1


def _unwell(view: View) -> Iterator[str]:
    """The health checks; but that one cannot decide alone is told by the gate of the quorum, while they are mixed."""
    ours = {f"{host.name}: " for host in view.ctx.fleet.members("sentinel")} if _mixed(view) else set[str]()
    for line in gates.healthy().why_not(view):
        if not ("NOQUORUM" in line and any(line.startswith(name) for name in ours)):
            yield line


def _no_quorum(view: View, instances: tuple[str, ...]) -> Iterator[str]:
    everybody = view.ctx.fleet.members("sentinel")
    mixed = _mixed(view)
    for name in instances:
        able = [one for one in everybody if _values(view, one.name, SENTINEL_QUERY).get(f"{name} ckquorum") == "OK"]
        if mixed and 2 * len(able) <= len(everybody):
            yield f"{name}: {len(able)} of {len(everybody)} sentinels can decide, a majority has to"
    for host in everybody:
        values = _values(view, host.name, SENTINEL_QUERY)
        for name in instances:
            if (said := values.get(f"{name} ckquorum", "no answer")) != "OK" and not (mixed and "NOQUORUM" in said):
                yield f"{host.name}: CKQUORUM {name}: {said}"
            others = len(values.get(f"{name} sentinels", "").split())
            if others != len(everybody) - 1:
                yield f"{host.name}: knows {others} other sentinels of {name}, not {len(everybody) - 1}"
            if "down" in values.get(f"{name} flags", ""):
                yield f"{host.name}: holds the primary of {name} for down"
