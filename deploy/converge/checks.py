"""Whether a host is fit to be changed at all, from what one look has shown."""

from __future__ import annotations

from fnmatch import fnmatchcase

from deploy.errors import FleetError
from deploy.model.catalog import RELEASES
from deploy.model.checks import memory_needed
from deploy.model.fleet import HostSpec, waivers
from deploy.model.observed import HostFactsSeen
from deploy.model.units import show_size

UNSIGNED = "apt:signatures"
"""What a waiver of an inventory calls it, where a mirror that nobody signs cannot be helped."""

CLOCK_TOLERANCE = 5.0
"""Seconds that a host's clock may be off: certificates, Sentinel's and RabbitMQ's timers are judged by it."""


def in_time(host: HostSpec, seen: HostFactsSeen, asked: tuple[float, float]) -> None:
    """Refuse a host whose clock is not the controller's; it was read within `asked` (seconds since 1970).

    Raises:
        FleetError: how far it is off.
    """
    begun, ended = asked
    ahead = max(0.0, seen.clock - ended) or min(0.0, seen.clock - begun)
    if abs(ahead) > CLOCK_TOLERANCE:
        raise FleetError(
            host=host.name,
            subject="clock",
            found=f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the controller's",
            expected=f"at most {CLOCK_TOLERANCE:.0f} s of difference",
            hint="see which of the two is wrong (timedatectl), and that the host reaches its time servers "
            "(base.ntp_servers); nothing was changed",
        )


def fit(host: HostSpec, seen: HostFactsSeen) -> None:
    """Refuse a host with the wrong system, without room, or whose packages nobody vouches for.

    Raises:
        FleetError: what is wrong, and what to do.
    """
    if seen.os != "debian" or seen.version not in RELEASES:
        supported = ", ".join(f"Debian {release.version} ({release.codename})" for release in RELEASES.values())
        raise FleetError(
            host=host.name,
            subject="operating system",
            found=f"{seen.os} {seen.version}",
            expected=supported,
            hint="install a supported release on the host, or take it out of the inventory",
        )
    if seen.unsigned and not any(fnmatchcase(UNSIGNED, waiver.what) for waiver in waivers(host)):
        raise FleetError(
            host=host.name,
            subject=UNSIGNED,
            found=f"apt told to take packages that nobody signed: {', '.join(seen.unsigned)}",
            expected="every package source to be signed, and its signature required",
            hint="give the source its key (signed-by=) instead and take the option away; nothing was changed",
        )
    reserve = host.settings.base.disk_reserve
    if seen.disk_free < reserve:
        raise FleetError(
            host=host.name,
            subject="free disk in /var",
            found=f"{seen.disk_free // 1024**2} MiB",
            expected=f"at least {show_size(reserve)} (base.disk_reserve)",
            hint="make room: nothing was changed",
        )
    needed = memory_needed(host)
    if needed > seen.memory:
        raise FleetError(
            host=host.name,
            subject="memory",
            found=f"{seen.memory // 1024**2} MiB on the host",
            expected=f"at least {needed // 1024**2} MiB, which its services are set to use",
            hint="lower redis.maxmemory, mysql.innodb_buffer_pool_size or frontend.fpm_max_children, or move a service",
        )
