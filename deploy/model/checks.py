"""What no single setting can say: how settings, hosts and services fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from deploy.errors import FleetError, FleetErrors
from deploy.model.catalog import CATALOG, JOURNAL_FILE, WORKERS
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.permitted import outside, permitted
from deploy.model.units import show_size

RESERVED_CONNECTIONS = 10
"""For people, exporters and replication threads."""

FLEET_WIDE = ("trust", "rabbitmq", "sentinel", "environment", "profile", "upstream")
"""Sections whose values only make sense when every host has the same."""

FLEET_WIDE_KEYS = {"mysql": ("database", "user", "tls"), "base": ("operators",), "redis": ("tls",)}


def check(fleet: Fleet) -> None:
    """Cross-checks of a fleet.

    Raises:
        FleetErrors: with every problem found.
    """
    problems = [problem for rule in _RULES for problem in rule(fleet)]
    if problems:
        raise FleetErrors(problems)


def _services_have_hosts(fleet: Fleet) -> Iterator[FleetError]:
    if not fleet.hosts:
        yield FleetError(
            subject="inventory",
            found="no hosts",
            expected="at least one host",
            hint="add hosts to inventory.py",
        )
        return
    for service in CATALOG:
        if not service.optional and not fleet.members(service.name):
            wanted_by = [other.name for other in CATALOG if service.name in other.needs]
            yield FleetError(
                subject=f"service {service.name}",
                found="no host in its group",
                expected="at least one host" + (f" ({', '.join(wanted_by)} need it)" if wanted_by else ""),
                hint=f"add a group `{service.group or service.name} = [...]` to inventory.py",
            )


def _addresses_differ(fleet: Fleet) -> Iterator[FleetError]:
    counts = Counter(host.address for host in fleet.hosts)
    for address, count in counts.items():
        if count > 1:
            names = ", ".join(host.name for host in fleet.hosts if host.address == address)
            yield FleetError(
                subject=f"address {address}",
                found=f"{count} hosts with it: {names}",
                expected="an address of its own for each host",
                hint="correct ssh_hostname or machine.address",
            )


def _no_clashes(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.hosts:
        if host.settings.environment != "production":
            continue
        own = [service for service in host.services if service.chosen]
        for service in own:
            if service.alone_in_production and len(own) > 1:
                others = ", ".join(other.name for other in own if other is not service)
                yield FleetError(
                    host=host.name,
                    subject=f"service {service.name}",
                    found=f"on the same host as {others}",
                    expected=f"a host of its own in production ({service.doc.lower()})",
                    hint="move it to another host, or set environment = 'development' for a fleet that is not public",
                )


def memory_needed(host: HostSpec) -> int:
    """Bytes that the host's services are set to use, with what each takes beside its data."""
    settings = host.settings
    total = 128 * 1024**2
    if host.has("redis"):
        total += int((settings.redis.maxmemory + settings.redis.sessions_maxmemory) * 1.25)
    if host.has("mysql"):
        total += settings.mysql.innodb_buffer_pool_size + 192 * 1024**2
    if host.has("frontend"):
        total += settings.frontend.fpm_max_children * settings.frontend.fpm_child_memory
    if host.has("runner") and settings.runner.judge == "sandbox":
        total += settings.runner.slots * settings.runner.sandbox_memory
    return total


def _memory_fits(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.hosts:
        memory = host.settings.machine.memory
        if memory is None:
            continue
        redis = host.settings.redis.maxmemory
        if host.has("redis") and redis > memory * 0.7:
            yield FleetError(
                host=host.name,
                subject="redis.maxmemory",
                found=show_size(redis),
                expected=f"at most 70 % of the host's memory ({show_size(memory)}): a fork and the replicas need room",
                hint="lower it in group_data, or give the host more memory",
            )
        elif memory_needed(host) > memory:
            yield FleetError(
                host=host.name,
                subject="memory",
                found=f"services set to use {memory_needed(host) // 1024**2} MiB",
                expected=f"at most the host's {memory // 1024**2} MiB",
                hint="lower redis.maxmemory, mysql.innodb_buffer_pool_size or frontend.fpm_max_children, "
                "or move a service",
            )


def connections_needed(fleet: Fleet) -> int:
    """Database connections when everything that may connect does."""
    frontends = sum(host.settings.frontend.fpm_max_children for host in fleet.members("frontend"))
    graders = sum(host.settings.grader.mysql_pool for host in fleet.members("grader"))
    workers = sum(host.settings.worker.mysql_pool * len(WORKERS) for host in fleet.members("worker"))
    return frontends + graders + workers + len(fleet.members("mysql")) + RESERVED_CONNECTIONS


def _connections_fit(fleet: Fleet) -> Iterator[FleetError]:
    needed = connections_needed(fleet)
    for host in fleet.members("mysql"):
        allowed = host.settings.mysql.max_connections
        if allowed < needed:
            yield FleetError(
                host=host.name,
                subject="mysql.max_connections",
                found=str(allowed),
                expected=f"at least {needed}: PHP processes of all frontends, grader, workers, replicas and "
                f"{RESERVED_CONNECTIONS} for people",
                hint="raise it, or lower frontend.fpm_max_children",
            )


def _one_address_leaves_room(fleet: Fleet) -> Iterator[FleetError]:
    """A stream of events takes two of nginx's connections: the client's, and one to the broadcaster."""
    for host in fleet.members("frontend"):
        frontend = host.settings.frontend
        if 2 * frontend.of_one_address >= frontend.worker_connections:
            yield FleetError(
                host=host.name,
                subject="frontend.address_requests",
                found=str(frontend.of_one_address),
                expected=f"less than half of frontend.worker_connections ({frontend.worker_connections}): a stream of "
                "events takes two, and others' requests need room",
                hint="lower it, or raise frontend.worker_connections",
            )


def _php_pool_is_consistent(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.members("frontend"):
        pool = host.settings.frontend
        order = (pool.fpm_min_spare, pool.fpm_start_servers, pool.fpm_max_spare, pool.fpm_max_children)
        if list(order) != sorted(order):
            yield FleetError(
                host=host.name,
                subject="frontend.fpm_*",
                found=f"min_spare {order[0]}, start_servers {order[1]}, max_spare {order[2]}, max_children {order[3]}",
                expected="min_spare <= start_servers <= max_spare <= max_children",
                hint="php-fpm refuses anything else; correct them together",
            )


def _renewal_before_end(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.hosts[:1]:
        trust = host.settings.trust
        life = min(trust.leaf_days, trust.authority_days, trust.crl_days)
        if trust.renew_days >= life:
            yield FleetError(
                subject="trust.renew_days",
                found=str(trust.renew_days),
                expected=f"less than a certificate's or revocation list's life of {life} days",
                hint="or every apply would sign all of them again",
            )


def _hosts_are_permitted(fleet: Fleet) -> Iterator[FleetError]:
    if not fleet.hosts:
        return
    allowed = permitted(fleet)
    for host in fleet.hosts:
        for text in outside(allowed, [host.name], [host.address]):
            yield FleetError(
                host=host.name,
                subject="trust.permitted",
                found=f"nothing that {text} is in",
                expected="the name and address of every host: the CA signs for nothing else",
                hint="add it, or the network or domain that it is in; then fleet pki roll-ca if there is a CA",
            )


def _fleet_wide_values_agree(fleet: Fleet) -> Iterator[FleetError]:
    def compare(subject: str, read: Callable[[HostSpec], object]) -> Iterator[FleetError]:
        first = fleet.hosts[0]
        for host in fleet.hosts[1:]:
            if read(host) != read(first):
                yield FleetError(
                    host=host.name,
                    subject=subject,
                    found="another value than on " + first.name,
                    expected="the same value on every host",
                    hint="set it in group_data/all.py only",
                )
                return

    if not fleet.hosts:
        return
    for section in FLEET_WIDE:
        yield from compare(section, lambda host, s=section: getattr(host.settings, s))  # type: ignore[misc]
    for section, keys in FLEET_WIDE_KEYS.items():
        for key in keys:
            yield from compare(
                f"{section}.{key}",
                lambda host, s=section, k=key: getattr(getattr(host.settings, s), k),  # type: ignore[misc]
            )


def _sentinels_can_decide(fleet: Fleet) -> Iterator[FleetError]:
    """An even number needs as large a majority as the next odd one; fewer than three have none without one of them."""
    members, sentinels = fleet.members("redis"), fleet.members("sentinel")
    if not sentinels and len(members) < 2:
        return
    if not sentinels or len(sentinels) % 2 == 0 or (len(sentinels) < 3 and len(members) > 1):
        yield FleetError(
            subject="service sentinel",
            found=f"{len(sentinels)} hosts ({', '.join(host.name for host in sentinels) or 'none'}) for "
            f"{len(members)} Redis hosts",
            expected="an odd number of at least three, on hosts that fail independently",
            hint="correct the group `sentinel` in inventory.py",
        )


def _proxied_connections_last(fleet: Fleet) -> Iterator[FleetError]:
    longest = max((host.settings.mysql.wait_timeout for host in fleet.members("mysql")), default=0)
    for host in fleet.members("proxy"):
        if host.settings.proxy.idle_timeout < longest:
            yield FleetError(
                host=host.name,
                subject="proxy.idle_timeout",
                found=f"{host.settings.proxy.idle_timeout:.0f} s",
                expected=f"at least mysql.wait_timeout, {longest} s: or connections that the database keeps are cut",
                hint="raise it, or lower mysql.wait_timeout",
            )


def _logs_have_room(fleet: Fleet) -> Iterator[FleetError]:
    least = JOURNAL_FILE * (len(fleet.hosts) + 1)
    for host in fleet.members("log-store"):
        if host.settings.monitoring.logs_max < least:
            yield FleetError(
                host=host.name,
                subject="monitoring.logs_max",
                found=show_size(host.settings.monitoring.logs_max),
                expected=f"at least {show_size(least)}: a file of {show_size(JOURNAL_FILE)} for each host is being "
                "written, and cannot be removed",
                hint="raise it in group_data",
            )


def _grafana_finds_prometheus(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.members("grafana"):
        if not host.has("monitoring"):
            yield FleetError(
                host=host.name,
                subject="service grafana",
                found="a host without Prometheus",
                expected="a host of the group monitoring: Prometheus is asked on the loopback",
                hint="correct the group `grafana` in inventory.py",
            )


NEEDED_RELEASES = {
    "grader": ("backend", "libinteractive"),
    "broadcaster": ("backend",),
    "gitserver": ("gitserver", "libinteractive"),
    "runner": ("runner",),
    "frontend": ("frontend", "libinteractive"),
    "mysql": ("frontend", "python"),
    "worker": ("frontend", "python"),
}
"""Upstream service -> the releases that it is made of."""

ALONE = ("grader", "broadcaster", "gitserver", "mysql")
"""Of which the upstream profile has one: a second grader on a database judges again what the first has in hand; the
broadcaster and the gitserver know of no other; the database is not replicated here.
"""


def _upstream_releases_are_named(fleet: Fleet) -> Iterator[FleetError]:
    if fleet.profile.name != "upstream" or not fleet.hosts:
        return
    settings = fleet.hosts[0].settings
    names = {name for service, names in NEEDED_RELEASES.items() if fleet.members(service) for name in names}
    if any(host.settings.runner.judge == "sandbox" for host in fleet.members("runner")):
        names.add("omegajail")
    for name in sorted(names):
        if not getattr(settings.upstream, name):
            users = ", ".join(service for service, needs in NEEDED_RELEASES.items() if name in needs) or "runner"
            yield FleetError(
                subject=f"upstream.{name}",
                found="no release",
                expected=f"its source and sha256 ({users} need it)",
                hint="inventories/upstream/group_data/all.py shows the form",
            )


def _upstream_fits_the_real_judge(fleet: Fleet) -> Iterator[FleetError]:
    if fleet.profile.name != "upstream":
        return
    for service in ALONE:
        members = fleet.members(service)
        if len(members) > 1:
            yield FleetError(
                subject=f"service {service}",
                found=f"{len(members)} hosts: {', '.join(host.name for host in members)}",
                expected="one host with the profile upstream (docs/upstream.md says why)",
                hint=f"leave one host in the group `{service}`",
            )
    for host in fleet.members("redis"):
        policy = host.settings.redis.maxmemory_policy
        if policy.startswith("allkeys"):
            yield FleetError(
                host=host.name,
                subject="redis.maxmemory_policy",
                found=repr(policy),
                expected="'volatile-lru': the real judge keeps the versions of what it cached in keys without an end, "
                "and shows old values once one of them is evicted",
                hint="set redis = {'maxmemory_policy': 'volatile-lru'} in group_data/all.py",
            )
    for host in fleet.hosts[:1]:
        if host.settings.environment == "production" and "//localhost" in host.settings.upstream.url:
            yield FleetError(
                subject="upstream.url", found=repr(host.settings.upstream.url),
                expected="the site's address as its users have it",
                hint="set upstream = {'url': 'https://...'} in group_data/all.py",
            )  # fmt: skip


def _somebody_may_log_in(fleet: Fleet) -> Iterator[FleetError]:
    for host in fleet.hosts:
        base = host.settings.base
        if base.root_login == "no" and (base.login == "root" or not base.operators):
            yield FleetError(
                host=host.name,
                subject="base.root_login",
                found=f"'no', with base.login {base.login!r} and {len(base.operators)} keys in base.operators",
                expected="another account that somebody may log in to",
                hint="set base.login and base.operators, apply once as root, then set ssh_user to that account with "
                "_sudo=True, and only then base.root_login='no'",
            )


_RULES = (
    _services_have_hosts,
    _addresses_differ,
    _no_clashes,
    _memory_fits,
    _connections_fit,
    _one_address_leaves_room,
    _php_pool_is_consistent,
    _renewal_before_end,
    _hosts_are_permitted,
    _fleet_wide_values_agree,
    _sentinels_can_decide,
    _proxied_connections_last,
    _logs_have_room,
    _grafana_finds_prometheus,
    _somebody_may_log_in,
    _upstream_releases_are_named,
    _upstream_fits_the_real_judge,
)
