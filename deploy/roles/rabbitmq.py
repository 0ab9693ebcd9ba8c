"""RabbitMQ: the broker, its running values, and its first user. What lies in it is in rabbitmq_topology.

A cluster of equals: each member is configured in the same way, and the first that runs declares what all share. The
first of all starts alone; empty members join afterwards, one after another. One that was lost is forgotten first.

The broker is asked through Erlang's own protocol (erl_call, 10 ms, the cookie as credential): that answers whatever
has been done to users, passwords and plugins. It is changed through its documented ways: the management API,
rabbitmqctl, rabbitmq-plugins, and the import of definitions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Only, Package, Parameter, Phase, Query, Resource, StepClass, Unit
from deploy.model.secrets import Change, SecretSpec
from deploy.model.ways import Way
from deploy.roles import rabbitmq_rolling
from deploy.roles import rabbitmq_tls as tls
from deploy.roles import rabbitmq_topology as topology
from deploy.roles.common import CA_FILE, CRL_FILE, certificate, timer
from deploy.roles.rabbitmq_ask import ENV, ask
from deploy.roles.rabbitmq_members import (
    CLUSTER,
    COOKIE,
    QUERY,
    REBALANCE,
    UNIT,
    clusters,
    insisted,
    node,
    standings,
)
from deploy.roles.rabbitmq_topology import ADMIN, API, CURL_FILE, DEFINITIONS

__all__ = ["SECRETS", "clusters", "desired", "standings", "ways"]

CONF = "/etc/rabbitmq/rabbitmq.conf"
LIMITS = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
MONITORING_FILE = "/etc/fleet/rabbitmq.auth"
"""`user:password` of the user that may only look."""

PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")
ACTIVE = ("rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_prometheus", "rabbitmq_web_dispatch")
"""RabbitMQ's own plugins that run when PLUGINS are enabled."""

SECRETS: Mapping[str, SecretSpec] = {
    "rabbitmq/cookie": SecretSpec(
        "cookie",
        "RabbitMQ: what members and the command line prove themselves with",
        change=Change.STOP,
        unit=UNIT,
        why="members of one cluster have one cookie, and one that runs cannot be told another",
    ),
    "rabbitmq/admin": SecretSpec("password", "RabbitMQ: the deployment's own user, on the host itself"),
    "rabbitmq/app": SecretSpec("password", "RabbitMQ: the application's user"),
    "rabbitmq/operator": SecretSpec("password", "RabbitMQ: people who look at queues and empty them"),
    "rabbitmq/monitoring": SecretSpec("password", "RabbitMQ: health checks and metrics"),
}


@dataclass(frozen=True)
class Line:
    """A setting of rabbitmq.conf and the value that the broker runs with.

    read: Erlang for the running value, `live` what that prints when it is as in the file. act: how the value is set
    while the broker runs; none means by a restart.
    """

    name: str
    value: str
    read: str = ""
    live: str = ""
    act: str = ""


def told(call: str) -> str:
    """Shell that has a running broker do this: without rabbitmqctl, which takes a second to start."""
    return ask(_port(), f"{call},\nfleet.\n")


def lines(ctx: Context) -> Iterator[Line]:
    """rabbitmq.conf, in its order."""
    settings = ctx.settings.rabbitmq
    amqp, amqps = (str(SERVICES["rabbitmq"].port(name).number) for name in ("amqp", "amqps"))
    management = str(SERVICES["rabbitmq"].port("management").number)
    relative = repr(settings.vm_memory_high_watermark)
    disk = settings.disk_free_limit
    timeout = str(int(settings.consumer_timeout * 1000))

    def env(name: str, value: str) -> Line:
        return Line(name, value, f"Show(Env({name}))", value)

    # Not 127.0.0.2: there a client host's own proxy listens, which may be this host.
    outside = f"{ctx.host.address}:{amqps if settings.tls else amqp}"
    sockets = sorted((f"127.0.0.1:{amqp}", f"{outside}{'/tls' if settings.tls else ''}"))
    listening = (
        'lists:join(" ", lists:sort([inet:ntoa(I) ++ ":" ++ Show(P) ++ case T of ranch_ssl -> "/tls"; _ -> "" end || '
        "{{acceptor, I, P}, #{protocol := rabbit_connection_sup, transport := T}} <- maps:to_list(ranch:info())]))"
    )
    yield Line("listeners.tcp.1", f"127.0.0.1:{amqp}", f"[{listening}]", " ".join(sockets))
    yield Line("listeners.ssl.1" if settings.tls else "listeners.tcp.2", outside)

    def serves(name: str, value: str, key: str = "", application: str = "rabbitmq_management") -> Line:
        """Of a plugin's listener in the clear; while the plugin does not run, that is what is to be mended."""
        found = f'proplists:get_value({name}, application:get_env({application}, tcp_config, []), "any")'
        return Line(
            key, value,
            f'case lists:member("{application}", Running) of\n  false -> "{value}";\n'
            f"  true -> {found if name == 'ip' else f'Show({found})'}\nend", value,
        )  # fmt: skip

    if settings.tls:
        yield serves("ip", "127.0.0.1", "management.tcp.ip")
    yield serves("port", management, "management.tcp.port")
    # Read through the host's door alone.
    yield serves("ip", "127.0.0.1", "prometheus.tcp.ip", "rabbitmq_prometheus")
    yield serves(
        "port", str(SERVICES["rabbitmq"].port("prometheus").number), "prometheus.tcp.port", "rabbitmq_prometheus"
    )
    # The deployment's user is known to the host itself only, by AMQP as well as by HTTP.
    yield Line(
        "loopback_users.guest", "true", 'lists:join(" ", lists:sort(Env(loopback_users)))', f"{ADMIN} guest"
    )  # fmt: skip
    yield Line(f"loopback_users.{ADMIN}", "true")
    # With definitions to load the broker never makes the user guest.
    yield Line("load_definitions", DEFINITIONS, "Env(load_definitions)", DEFINITIONS)
    yield Line(
        "vm_memory_high_watermark.relative", relative, "Show(vm_memory_monitor:get_vm_memory_high_watermark())",
        relative, told(f"vm_memory_monitor:set_vm_memory_high_watermark({relative})"),
    )  # fmt: skip
    yield Line(
        "disk_free_limit.absolute", f"{disk // 1000**3}GB" if disk % 1000**3 == 0 else str(disk),
        "Show(rabbit_disk_monitor:get_disk_free_limit())", str(disk),
        told(f"rabbit_disk_monitor:set_disk_free_limit({disk})"),
    )  # fmt: skip
    yield env("channel_max", str(settings.channel_max))
    yield env("heartbeat", str(settings.heartbeat))
    yield env("max_message_size", str(settings.max_message_size))
    yield env("consumer_timeout", timeout)
    yield env("cluster_partition_handling", "pause_minority")
    ticks = str(settings.net_ticktime)
    yield Line(
        "net_ticktime", ticks, "Show(net_kernel:get_net_ticktime())", ticks,
        told(f"net_kernel:set_net_ticktime({ticks}, 0)"),
    )  # fmt: skip
    # Read by a member without data only, so nothing that runs can differ from it.
    members = ctx.fleet.members("rabbitmq")
    yield Line("cluster_formation.peer_discovery_backend", "classic_config")
    yield Line("cluster_formation.target_cluster_size_hint", str(len(members)))
    # They join one after another anyway.
    yield Line("cluster_formation.randomized_startup_delay_range.min", "0")
    yield Line("cluster_formation.randomized_startup_delay_range.max", "1")
    for number, member in enumerate(members, 1):
        yield Line(f"cluster_formation.classic_config.nodes.{number}", node(member.name))


def secured(ctx: Context) -> Iterator[Line]:
    """advanced.config (see rabbitmq_tls), as the broker runs with it."""
    amqp, management = tls.listens(ctx)
    yield Line("ssl_options", amqp, "Show(application:get_env(rabbit, ssl_options, []))", amqp)
    yield Line(
        "management.ssl_config", management,
        f'case lists:member("rabbitmq_management", Running) of\n  false -> "{_quoted(management)}";\n'
        "  true -> Show(application:get_env(rabbitmq_management, ssl_config, []))\nend", management,
    )  # fmt: skip


def _quoted(text: str) -> str:
    """Inside an Erlang string."""
    return text.replace('"', '\\"')


def desired(ctx: Context) -> Iterable[Resource]:
    yield Package(name="rabbitmq-server")
    yield _untouched(ctx)
    # Not the broker's: what lies here is run by root.
    yield Directory(path="/etc/rabbitmq")
    yield from tls.desired(ctx)
    yield from _files(ctx)
    yield Unit(name="epmd.socket")
    joins = ctx.is_empty(CLUSTER) and not ctx.leads(CLUSTER)
    if joins:
        yield _join(ctx)
    # What has data starts together: the member that was stopped last may have to come first.
    yield Unit(
        name=UNIT,
        rolling=True,
        restart_files=(ENV, COOKIE, LIMITS),
        start_files=(CONF, tls.ADVANCED, tls.LINKS),
        phase=Phase.MEMBERS if joins else Phase.UNITS,
        # Those that start at once ask one another about their features, which is refused by one that is not so far yet.
        tries=3,
    )
    yield from _watch(ctx)
    yield tls.renewed(ctx, _node(ctx))
    yield _application(ctx)
    yield from _running(ctx)
    if ctx.leads(CLUSTER):
        yield from topology.desired(ctx)
        yield from _membership(ctx)
    yield _copies(ctx)


DUMP = "/var/log/rabbitmq/erl_crash.dump"
"""The memory of a broker that has crashed, passwords included."""
RAN = "/var/lib/rabbitmq/fleet-ran"
"""When this member was last seen to run, seconds since 1970."""


def ways(ctx: Context) -> Iterator[Way]:
    yield rabbitmq_rolling.way(ctx)


def _watch(ctx: Context) -> Iterator[Resource]:
    """Ends what a member does not leave by itself: it hangs, or no longer shares its tables, or waits for one away."""
    tool, name = "/usr/local/lib/fleet/rabbitmq-watch", "fleet-rabbitmq-watch"
    members = [host.address for host in ctx.fleet.members("rabbitmq")]
    if len(members) == 1:
        return
    seen = ask(_port(), ctx.render("rabbitmq/shares.erl.j2", ran=RAN), "$peer")
    forced = told("ok = rabbit_mnesia:force_load_next_boot()")
    yield File(
        path=tool, mode=0o755,
        content=ctx.render(
            "rabbitmq/watch.sh.j2", seen=seen, forced=forced, members=members, address=ctx.host.address, unit=UNIT,
            ran=RAN,
        ),
    )  # fmt: skip
    yield from timer(ctx, "rabbitmq", name, tool=tool)


def _cluster(ctx: Context) -> Query:
    """The same on each member: who leads is only known from its answers."""
    ask_broker = ask(_port(), ctx.render("rabbitmq/cluster.erl.j2"))
    return Query(
        QUERY,
        ctx.render(
            "rabbitmq/cluster.sh.j2", cookie=COOKIE, data=f"/var/lib/rabbitmq/mnesia/{node(ctx.host.name)}",
            ask=ask_broker, certificate=certificate(ctx, "rabbitmq").certificate_path, authority=CA_FILE,
            revocations=CRL_FILE,
        ),
        UNIT,
    )  # fmt: skip


def _join(ctx: Context) -> Parameter:
    """An empty member's start: when the leader and every empty member before it are in the cluster."""
    empty = [host.name for host in ctx.fleet.members("rabbitmq") if host.name in ctx.live.empty[CLUSTER]]
    leader = ctx.leader(CLUSTER)
    before = dict.fromkeys([leader.name, *empty[: empty.index(ctx.host.name)]])
    names = 'io:format("~s", [lists:join(" ", [atom_to_list(N) || N <- rabbit_nodes:all_running()])]),\nfleet.\n'
    return Parameter(
        query=_cluster(ctx), name="file-data", want="held", step=StepClass.CREATE, phase=Phase.MEMBERS,
        label="rabbitmq: membership",
        act=ctx.render(
            "rabbitmq/turn.sh.j2", ask=ask(_port(), names, leader.address), before=[node(name) for name in before],
            unit=UNIT,
        ),
    )  # fmt: skip


def _membership(ctx: Context) -> Iterator[Resource]:
    """Asked of the leader: a member that lost its disk is forgotten before it joins anew, one that left for good."""
    query = _cluster(ctx)
    forget = ctx.render("rabbitmq/forget.sh.j2", shrink=insisted('rabbitmq-queues -q shrink "$NAME"', seconds=60))
    for host in ctx.fleet.members("rabbitmq"):
        name = node(host.name)
        lost = host.name in ctx.live.empty.get(CLUSTER, frozenset()) and host.name != ctx.host.name
        yield Parameter(
            query=query, name=f"member {name}", want=None if lost else "running", at_start=True,
            label=f"rabbitmq: member {name}", phase=Phase.STATE if lost else Phase.MEMBERS,
            act=f"NAME={name}\n{forget}" if lost else f"""\
n=0
until rabbitmqctl -q --node {name} --timeout 10 await_startup </dev/null >/dev/null 2>&1; do
  n=$((n + 1))
  [ $n -lt 30 ] || {{ echo '{name} does not run in this cluster'; exit 1; }}
  sleep 1
done""",
        )  # fmt: skip
    yield Only(
        query=query, prefix="member ", names=frozenset(f"member {node(host.name)}" for host in
        ctx.fleet.members("rabbitmq")), act=forget, phase=Phase.STATE,
    )  # fmt: skip
    yield Parameter(
        query=query, name="feature-flags", want="all enabled", phase=Phase.MEMBERS, at_start=True,
        label="rabbitmq: feature flags", act="rabbitmqctl -q enable_feature_flag all </dev/null",
    )  # fmt: skip


def _copies(ctx: Context) -> Parameter:
    """Each member has a copy of every queue: a queue does not grow with the cluster by itself.

    Then, and only then, leaders are spread anew: never because of a failover.
    """
    name = node(ctx.host.name)
    return Parameter(
        query=_cluster(ctx), name="copies", want="of every queue", phase=Phase.MEMBERS, label="rabbitmq: copies",
        act=insisted(f"rabbitmq-queues -q grow {name} all") + REBALANCE,
    )  # fmt: skip


def _files(ctx: Context) -> Iterator[Resource]:
    yield File(
        path=ENV,
        content=ctx.render(
            "rabbitmq/rabbitmq-env.conf.j2", node=node(ctx.host.name), port=_port(), arguments=tls.arguments(ctx)
        ),
    )  # fmt: skip
    # Of before the broker was told to leave none.
    yield File(path=DUMP, absent=True)
    yield File(
        path="/etc/rabbitmq/enabled_plugins", content=f"[{','.join(PLUGINS)}].\n",
    )  # fmt: skip
    # Before the configuration: its checker wants to see it.
    yield File(
        path=DEFINITIONS, content=json.dumps(topology.first_definitions(ctx), indent=2, sort_keys=True) + "\n",
        group="rabbitmq", mode=0o640, secret=True,
    )  # fmt: skip
    yield File(
        path=CONF, content=ctx.render("rabbitmq/rabbitmq.conf.j2", lines=list(lines(ctx))), group="rabbitmq",
        mode=0o640, check=ctx.render("rabbitmq/check.sh.j2"),
    )  # fmt: skip
    yield File(
        path=COOKIE, content=ctx.secret("rabbitmq/cookie"), owner="rabbitmq", group="rabbitmq", mode=0o400,
        secret=True,
    )  # fmt: skip
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    base = ctx.settings.base
    text = ctx.render("rabbitmq/limits.conf.j2", nofile=base.service_nofile, sandbox=base.sandbox)
    yield File(path=LIMITS, content=text)
    yield File(
        path=CURL_FILE, content=f'user = "{ADMIN}:{ctx.secret("rabbitmq/admin")}"\n', mode=0o400, secret=True
    )  # fmt: skip
    login = ":".join(ctx.login(topology.MONITORING, "rabbitmq/monitoring"))
    yield File(path=MONITORING_FILE, content=f"{login}\n", mode=0o400, secret=True)
    yield File(
        path=API, mode=0o755,
        content=ctx.render(
            "rabbitmq/api.j2", curl=CURL_FILE, port=SERVICES["rabbitmq"].port("management").number
        ),
    )  # fmt: skip


def _port() -> int:
    return SERVICES["rabbitmq"].port("distribution").number


def _query(name: str, ctx: Context, **values: object) -> Query:
    return Query(f"rabbitmq-{name}", ask(_port(), ctx.render(f"rabbitmq/{name}.erl.j2", **values)), UNIT)


def _state(ctx: Context) -> Query:
    return _query("application", ctx, definitions=DEFINITIONS)


def _untouched(ctx: Context) -> Parameter:
    """Before the files: a broker that runs without our configuration is stopped, if there is nothing in it.

    It is there when the host went down in the middle of an installation: the package enables the unit. One that will
    not take the cookie of the file cannot be asked, and is left to the cookie's own file.
    """
    return Parameter(
        query=_state(ctx), name="configuration", want="loaded", at_start=True, phase=Phase.ACCOUNTS,
        step=StepClass.RESTART, rolling=False,
        act=f"""\
found=$({ask(_port(), ctx.render("rabbitmq/untouched.erl.j2"))}
) || exit 0
if [ "$found" != empty ]; then
  echo "a broker runs here that was not configured by this deployment, and it is in use: $found"
  exit 1
fi
systemctl stop {UNIT} 9>&-
# Or it would be a cluster of its own, which joins no other.
rm -rf -- /var/lib/rabbitmq/mnesia/*""",
    )  # fmt: skip


def _application(ctx: Context) -> Parameter:
    return Parameter(
        query=_state(ctx), name="application", want="running", at_start=True, phase=Phase.UNITS,
        act="rabbitmqctl -q start_app </dev/null\nrabbitmqctl -q await_startup --timeout 60 </dev/null",
    )  # fmt: skip


def _shown(ctx: Context) -> list[Line]:
    return [*(line for line in lines(ctx) if line.read), *secured(ctx)]


def _node(ctx: Context) -> Query:
    return _query("node", ctx, lines=_shown(ctx), reading=tls.reading(ctx))


def _running(ctx: Context) -> Iterator[Resource]:
    query = _node(ctx)
    yield Parameter(
        query=query, name="plugins", want=" ".join(ACTIVE), at_start=True,
        act=f"rabbitmq-plugins -q set {' '.join(PLUGINS)} </dev/null",
    )  # fmt: skip
    for line in _shown(ctx):
        yield Parameter(
            query=query, name=line.name, want=line.live, at_start=True, act=line.act,
            step=StepClass.HOT if line.act else StepClass.RESTART,
        )  # fmt: skip
