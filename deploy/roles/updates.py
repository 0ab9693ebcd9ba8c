"""Security updates that a host installs by itself: everything but the fleet's servers, and never a boot.

The servers' packages restart what they bring, whoever serves at that moment; `fleet roll` gives them their versions,
one member at a time, behind gates (see packages.pins). What else is updated, a library say, is taken up by a server at
its next start: `fleet roll --reboot` boots the hosts that ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Resource, Unit

LEFT_TO_ROLL = (
    "erlang-", "galera-", "grafana", "haproxy", "libmariadb", "libnginx-", "mariadb-", "nginx", "php", "prometheus",
    "rabbitmq-server", "redis",
)  # fmt: skip
"""Beginnings of the names of packages that are not updated unattended: the servers' own, and what they are built of."""

CONFIG = "/etc/apt/apt.conf.d/90fleet-updates"
"""Behind Debian's own 20auto-upgrades and 50unattended-upgrades."""
NEEDRESTART = "/etc/needrestart/conf.d/60-fleet.conf"


def updates(ctx: Context) -> Iterator[Resource]:
    """The policy (base.updates), which holds whether the tool was there before or not."""
    unattended = ctx.settings.base.updates == "security"
    yield File(
        path=CONFIG, content=ctx.render("base/updates.conf.j2", unattended=unattended, left=LEFT_TO_ROLL),
        check='apt-config -c "$CANDIDATE" dump >/dev/null',
    )  # fmt: skip
    yield Directory(path="/etc/needrestart")
    yield Directory(path="/etc/needrestart/conf.d")
    yield File(path=NEEDRESTART, content=ctx.render("base/needrestart.conf.j2"), check='perl -c "$CANDIDATE"')
    if unattended:
        yield Package(name="unattended-upgrades")
        for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
            yield Unit(name=timer)
