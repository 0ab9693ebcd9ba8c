"""What every host gets: names, limits, journal, time, firewall, SSH."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deploy.model.catalog import PROXY_ADDRESS, Service
from deploy.model.fleet import Context
from deploy.model.records import HOST_FOLDER, HOST_GROUP
from deploy.model.resources import (
    PREVIOUS,
    STAMP_TOOL,
    STAMPS,
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
from deploy.roles.logins import account
from deploy.roles.updates import updates

PACKAGES = ("ca-certificates", "curl", "nftables", "openssl", "openssh-server", "systemd-timesyncd")
NFT_FILE = "/etc/nftables.conf"
SSHD_FILE = "/etc/ssh/sshd_config.d/10-fleet.conf"

# The kernel's rules against those that the file makes in a network namespace of its own: the same tool prints both,
# so nothing has to be known about how it prints them.
RULESET = Query(
    "nftables",
    f"""\
wanted=$(unshare -n sh -c 'nft -f {NFT_FILE} && nft -s list ruleset')
live=$(nft -s list ruleset)
if [ "$live" = "$wanted" ]; then printf 'ruleset\\tas in {NFT_FILE}\\n'
else
  t=$(mktemp)
  printf '%s\\n' "$wanted" >"$t"
  first=$(printf '%s\\n' "$live" | diff - "$t" | grep -m 1 '^[<>]') || true
  rm -f "$t"
  printf 'ruleset\\tdiffers: %s\\n' "$first"
fi
""",
)


GUARDS = Query(
    "guard",
    "units=$(systemctl list-units --plain --no-legend 'fleet-guard-*.timer')\n"
    "printf '%s\\n' \"$units\" | awk 'NF { print $1 \"\\tarmed\" }'",
)
"""Ways back that a controller armed and, having died, did not disarm (see converge.guard)."""


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.base
    # First of all: while one is armed, what is done now may be undone in a moment.
    yield Only(
        query=GUARDS, prefix="fleet-guard-", names=frozenset(), phase=Phase.ACCOUNTS,
        act='systemctl stop -- "fleet-guard-$NAME"',
    )  # fmt: skip
    pins = ctx.settings.packages.pins
    # Before the first package: what depends on a pinned one has to find it.
    yield File(
        path="/etc/apt/preferences.d/60-fleet.pref", content=ctx.render("base/preferences.j2", pins=pins),
        absent=not pins, phase=Phase.PACKAGES,
    )  # fmt: skip
    for name in PACKAGES:
        yield Package(name=name)
    for path in ("/etc/fleet", "/etc/fleet/stamps", "/usr/local/lib/fleet", "/var/lib/fleet", "/etc/omegaup"):
        yield Directory(path=path)
    yield Directory(path=PREVIOUS, mode=0o700)
    yield Directory(path=HOST_FOLDER, group=HOST_GROUP, mode=0o750)
    yield File(path=STAMP_TOOL, content=ctx.render("base/stamp.j2", stamps=STAMPS), mode=0o755)
    # Left behind only by a host that went down in the middle of an installation.
    yield File(path="/usr/sbin/policy-rc.d", absent=True, phase=Phase.ACCOUNTS)
    yield File(path="/etc/hosts", content=ctx.render("base/hosts.j2", hosts=ctx.fleet.hosts, names=names(ctx)))
    yield from _sysctl(ctx)
    yield File(
        path="/etc/systemd/journald.conf.d/60-fleet.conf",
        content=ctx.render(
            "base/journald.conf.j2",
            max_use=settings.journal_max,
            keep=int(settings.journal_keep),
            burst=settings.journal_burst,
        ),
    )
    yield Directory(path="/etc/systemd/journald.conf.d")
    yield Unit(
        name="systemd-journald.service", enabled=False,
        restart_files=("/etc/systemd/journald.conf.d/60-fleet.conf",),
    )  # fmt: skip
    yield Directory(path="/etc/systemd/timesyncd.conf.d")
    yield File(
        path="/etc/systemd/timesyncd.conf.d/60-fleet.conf",
        content=ctx.render("base/timesyncd.conf.j2", servers=settings.ntp_servers),
    )
    yield Unit(name="systemd-timesyncd.service", restart_files=("/etc/systemd/timesyncd.conf.d/60-fleet.conf",))
    yield from updates(ctx)
    yield from _firewall(ctx)
    yield from account(ctx)
    yield from _ssh(ctx)
    yield from _limits(ctx)


def names(ctx: Context) -> Iterator[tuple[str, str]]:
    """(address, name) by which services are found: through the host's own proxy, or at the first member.

    A name behind the proxy exists where the proxy is, which follows a failover: any other address would be wrong after
    one.
    """
    for service in ctx.fleet.profile.services:
        members = ctx.fleet.members(service.name)
        if not members or (service.proxied and not ctx.host.has("proxy")):
            continue
        for name in service.names:
            yield PROXY_ADDRESS if service.proxied else members[0].address, name


def flows(ctx: Context) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    """(comment, port, sources) that this host accepts; no sources means anybody."""
    for service in ctx.host.services:
        for port in service.ports:
            if port.loopback:
                continue
            sources = ctx.fleet.sources(service, port, ctx.host)
            if sources is None or sources:
                yield f"{service.name} {port.name}", port.shown, sources
        if ctx.host.name in ctx.live.otherwise.get(service.name, ()):
            yield from _before(ctx, service)


def _before(ctx: Context, own: Service) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    """TLS was turned on or off, and what runs does not know it yet: its clients find it where it still listens."""
    whole = ctx.fleet.profile.service(own.name)
    for port in whole.ports:
        if port.instead and (sources := ctx.fleet.sources(whole, port, ctx.host)):
            still = whole.port(port.instead) if port in own.ports else port
            yield f"{own.name} {still.name}, until it is restarted", still.shown, sources


def sysctls(ctx: Context) -> dict[str, str]:
    """Kernel parameters that this host's services ask for."""
    values = {
        "net.core.somaxconn": str(ctx.settings.base.somaxconn),
        # MariaDB takes no new connection while it waits for a replica's old one, cut off by a partition, to fail.
        "net.ipv4.tcp_retries2": str(ctx.settings.base.tcp_retries2),
    }
    if ctx.host.has("redis"):
        # Without it a fork for persistence fails as soon as the data set is half of the memory.
        values["vm.overcommit_memory"] = "1"
    return values


def _sysctl(ctx: Context) -> Iterator[Resource]:
    values = sysctls(ctx)
    yield File(path="/etc/sysctl.d/60-fleet.conf", content=ctx.render("base/sysctl.conf.j2", values=values))
    query = Query("sysctl", f"for n in {' '.join(values)}; do printf '%s\\t%s\\n' $n \"$(sysctl -n $n)\"; done")
    for name, value in values.items():
        yield Parameter(query=query, name=name, want=value, act=f"sysctl -q -w {name}={value}")


def _limits(ctx: Context) -> Iterator[Resource]:
    """That the running services have the open files their units give them: a debt that only a restart can pay."""
    units = [unit for service in ctx.host.services for unit in service.units_on(ctx.release)]
    query = Query("limits", ctx.render("base/limits.sh.j2", units=units))
    for unit in units:
        yield Parameter(
            query=query, name=unit, want="as the unit says", step=StepClass.RESTART, unit=unit,
            label=f"limit:nofile:{unit}",
        )  # fmt: skip


def _firewall(ctx: Context) -> Iterator[Resource]:
    settings = ctx.settings.base
    yield File(
        path=NFT_FILE,
        content=ctx.render(
            "base/nftables.conf.j2",
            ports=settings.ssh_ports,
            ssh_from=settings.ssh_from,
            flows=list(flows(ctx)),
            hosts=[host.address for host in ctx.fleet.hosts if host is not ctx.host],
        ),
        mode=0o755,
        check='nft -c -f "$CANDIDATE"',
        keep=True,
    )
    yield Unit(name="nftables.service")
    yield Parameter(
        query=RULESET, name="ruleset", want=f"as in {NFT_FILE}", act=f"nft -f {NFT_FILE}", step=StepClass.RELOAD,
        loads=(NFT_FILE,), label="firewall", rolling=False,
        guard=f"cp -p {PREVIOUS}{NFT_FILE} {NFT_FILE} && nft -f {NFT_FILE} || nft flush ruleset",
    )  # fmt: skip


def _ssh(ctx: Context) -> Iterator[Resource]:
    settings = ctx.settings.base
    yield Directory(path="/etc/ssh/fleet_keys")
    yield File(
        path=f"/etc/ssh/fleet_keys/{settings.login}",
        content="".join(f"{key}\n" for key in settings.operators),
    )
    yield File(
        path=SSHD_FILE,
        content=ctx.render("base/sshd.conf.j2", ports=settings.ssh_ports, root_login=settings.root_login),
        check='sshd -t -f "$CANDIDATE"',
        keep=True,
    )
    yield Unit(
        name="ssh.service", reload_files=(SSHD_FILE,),
        guard=f"if [ -f {PREVIOUS}{SSHD_FILE} ]; then cp -p {PREVIOUS}{SSHD_FILE} {SSHD_FILE}; "
        f"else rm -f {SSHD_FILE}; fi; systemctl reload ssh.service",
    )  # fmt: skip
