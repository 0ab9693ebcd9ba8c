"""Servers that take even what is owed a restart without one: their master process stays, and so do their sockets.

What their drop-ins hold besides the limit of open files is systemd's own and counts from its daemon-reload on.
"""

from __future__ import annotations

from deploy.model.resources import STAMP_TOOL
from deploy.model.ways import Way
from deploy.roles import gates


def way(service: str, unit: str) -> Way:
    """The limit goes to the running master, which hands it to its next workers; then a reload, which loses nothing."""
    script = f"""\
systemctl daemon-reload
main=$(systemctl show -p MainPID --value -- {unit})
soft=$(systemctl show -p LimitNOFILESoft --value -- {unit})
hard=$(systemctl show -p LimitNOFILE --value -- {unit})
# As systemd does where the kernel allows less.
most=$(cat /proc/sys/fs/nr_open)
[ "$hard" -le "$most" ] || hard=$most
[ "$soft" -le "$hard" ] || soft=$hard
prlimit --pid "$main" --nofile="$soft:$hard"
systemctl reload -- {unit} 9>&-
started {unit}
{STAMP_TOOL} {unit} start"""
    return Way(
        name=unit.removesuffix(".service"), service=service, units=(unit,), gates=gates.usual(service, (unit,)),
        restart={unit: script}, graceful=True,
    )  # fmt: skip
