"""Servers that take even what is owed a restart without one: their master process stays, and so do their sockets.

What their drop-ins hold besides the limit of open files is systemd's own and counts from its daemon-reload on.
"""

from __future__ import annotations

from deploy.model.resources import STAMP_TOOL
from deploy.model.ways import Way
from deploy.roles import gates

NEW_PROGRAM = """\
if [ "$(readlink "/proc/$main/exe")" != "$(readlink -f /usr/sbin/nginx)" ]; then
  # nginx.org/en/docs/control.html: the new master beside the old one, which then sends its workers home.
  kill -USR2 "$main"
  n=0
  until [ -s /run/nginx.pid.oldbin ] && [ -s /run/nginx.pid ]; do
    n=$((n + 1))
    [ $n -lt 50 ] || { echo 'nginx did not start its new program'; exit 1; }
    sleep 0.2
  done
  kill -QUIT "$main"
  n=0
  while [ -e /run/nginx.pid.oldbin ]; do
    n=$((n + 1))
    [ $n -lt 600 ] || { echo 'the old nginx does not end'; exit 1; }
    sleep 0.2
  done
fi
"""
"""nginx alone does not take a new program at a reload."""


def way(service: str, unit: str, source: str = "") -> Way:
    """The limit goes to the running master, which hands it to its next workers; then a reload, which loses nothing.

    source: the Debian source package of the server.
    """
    script = f"""\
systemctl daemon-reload
main=$(systemctl show -p MainPID --value -- {unit})
soft=$(systemctl show -p LimitNOFILESoft --value -- {unit})
hard=$(systemctl show -p LimitNOFILE --value -- {unit})
# As systemd does where the kernel allows less, or nobody here may raise it: whether that is enough, the look says.
limit() {{
  [ "$hard" -le "$1" ] || hard=$1
  [ "$soft" -le "$hard" ] || soft=$hard
  prlimit --pid "$main" --nofile="$soft:$hard"
}}
limit "$(cat /proc/sys/fs/nr_open)" 2>/dev/null || limit "$(prlimit --pid "$main" --nofile -o HARD --noheadings --raw)"
systemctl reload -- {unit} 9>&-
{NEW_PROGRAM if unit == "nginx.service" else ""}started {unit}
{STAMP_TOOL} {unit} start"""
    return Way(
        name=unit.removesuffix(".service"), service=service, units=(unit,), gates=gates.usual(service, (unit,)),
        restart={unit: script}, graceful=True, source=source,
    )  # fmt: skip
