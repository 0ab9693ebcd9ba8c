"""Real Debian hosts on one machine: systemd-nspawn containers on a bridge.

    spec = LabSpec.load("lab")
    up(spec)
    exec_(spec, "data1", ["systemctl", "is-system-running"]).stdout
    down(spec)

State root FLEET_LAB_STATE (/var/lib/fleet-lab), cache FLEET_LAB_CACHE
(/var/cache/fleet-lab). All raise LabError, which says what to do.
"""

from lab.disk import harvest
from lab.errors import LabError
from lab.inside import enter_argv
from lab.inside import execute as exec_
from lab.lifecycle import (
    HostStatus,
    UpResult,
    kill,
    list_hosts,
    reset,
    restore,
    shape,
    snapshot,
    start,
    stop,
    unshape,
    up,
)
from lab.progress import Event
from lab.snapshots import drop as drop_snapshot
from lab.snapshots import names as snapshot_names
from lab.spec import LabSpec
from lab.ssh import argv as ssh_argv
from lab.teardown import down

__all__ = [
    "Event",
    "HostStatus",
    "LabError",
    "LabSpec",
    "UpResult",
    "down",
    "drop_snapshot",
    "enter_argv",
    "exec_",
    "harvest",
    "kill",
    "list_hosts",
    "reset",
    "restore",
    "shape",
    "snapshot",
    "snapshot_names",
    "ssh_argv",
    "start",
    "stop",
    "unshape",
    "up",
]
