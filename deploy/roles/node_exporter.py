"""Figures of the host, and what this project notes about it: certificates, debts, drift, backups.

The notes are a script's, twice a minute, in a file that node_exporter reads; it is replaced by a rename. What only
a controller knows (when `apply` ended last, and how) is written there by `apply` itself, and so is the list of what the
files should be, by which drift is seen while no controller looks.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable

from deploy.model.catalog import SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import STAMPS, Directory, File, Package, Resource
from deploy.roles.common import CRL_FILE, timer
from deploy.roles.exporters import ACCOUNT, exporter, listen
from deploy.roles.log_store import senders, store

TEXTFILES = "/var/lib/prometheus/node-exporter"
NOTES = "/var/lib/fleet-notes"
MANIFEST = f"{NOTES}/manifest"
"""`sha256  path` of every file that the deployment keeps here."""
BACKUPS = "/var/lib/fleet/backup"
"""NAME.done there is as old as the last backup NAME that was proven to be one."""
TOOL = "/usr/local/lib/fleet/notes"
COLLECTORS = (
    "conntrack", "cpu", "diskstats", "filefd", "filesystem", "loadavg", "meminfo", "netdev", "netstat", "pressure",
    "sockstat", "stat", "systemd", "textfile", "time", "timex", "uname", "vmstat",
)  # fmt: skip
"""What is read by a rule or a panel, or by a person in need; not the other thirty."""

NO_DISKS = (
    "autofs", "binfmt_misc", "bpf", "cgroup", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fuse",
    "hugetlbfs", "iso9660", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs",
    "squashfs", "sysfs", "tmpfs", "tracefs",
)  # fmt: skip
"""Beginnings of types of file systems. Debian's own list has overlay as well, which is the root of a container."""


def desired(ctx: Context) -> Iterable[Resource]:
    units = [unit for service in ctx.host.services for unit in service.units_on(ctx.release)]
    chosen = "|".join(unit.replace(".", "[.]") for unit in dict.fromkeys(units))
    collectors = " ".join(f"--collector.{name}" for name in COLLECTORS)
    yield from exporter(
        ctx, "prometheus-node-exporter",
        f"--web.listen-address={listen('node-exporter')} --collector.disable-defaults {collectors} "
        f"--collector.systemd.unit-include=({chosen}) --collector.systemd.enable-start-time-metrics "
        f"--collector.filesystem.fs-types-exclude=^({'|'.join(NO_DISKS)}) "
        "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|run|boot) "
        f"--collector.textfile.directory={TEXTFILES} --web.disable-exporter-metrics",
        clock=True,
    )  # fmt: skip
    # The state of units comes from there.
    yield Package(name="dbus")
    yield Directory(path=NOTES, mode=0o700)
    yield Directory(path=TEXTFILES, owner=ACCOUNT, group=ACCOUNT)
    yield File(
        path=TOOL, mode=0o755,
        content=ctx.render(
            "node-exporter/notes.sh.j2", folder=TEXTFILES, ssl=SSL_DIR, crl=CRL_FILE, manifest=MANIFEST, stamps=STAMPS,
            backups=BACKUPS, senders=senders(ctx.fleet) if ctx.host == store(ctx.fleet) else (),
        ),
    )  # fmt: skip
    yield from timer(ctx, "node-exporter", "fleet-notes", tool=TOOL, folder=TEXTFILES)


def manifest(resources: Iterable[Resource]) -> str:
    """The files that are to be exactly as they were written, as `sha256sum -c` reads them."""
    files = (item for item in resources if isinstance(item, File) and not item.absent and not item.once)
    return "".join(f"{hashlib.sha256(item.content.encode()).hexdigest()}  {item.path}\n" for item in files)


def rewritten(files: Iterable[File]) -> str:
    """Shell that notes what these files are to be from now on, and leaves the rest of the manifest as it is."""
    kept = list(files)
    drop = " ".join(shlex.quote(f"-e^[0-9a-f]*  {item.path.replace('.', '[.]')}$") for item in kept)
    lines = "".join(f"{item.sha256}  {item.path}\n" for item in kept)
    return f"""\
[ -f {MANIFEST} ] || exit 0
(umask 077 && {{ grep -v {drop} {MANIFEST} || true; cat <<'MANIFEST'
{lines}MANIFEST
}} >{MANIFEST}.new)
mv -f {MANIFEST}.new {MANIFEST}"""


def applied(content: str, *, ok: bool, owed: int) -> str:
    """Shell that notes the end of an apply. content: the manifest. owed: steps that only a roll can do."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"""\
[ -d {TEXTFILES} ] || exit 0
if [ "$(sha256sum <{MANIFEST} 2>/dev/null | cut -c1-64)" != {digest} ]; then
  (umask 077 && cat >{MANIFEST}.new <<'MANIFEST'
{content}MANIFEST
  )
  mv -f {MANIFEST}.new {MANIFEST}
fi
cat >{TEXTFILES}/apply.prom.new <<NOTE
# HELP fleet_apply_time_seconds When apply ended last on this host, seconds since 1970.
# TYPE fleet_apply_time_seconds gauge
fleet_apply_time_seconds $(date +%s)
# HELP fleet_apply_ok Whether it brought the host to what the inventory says.
# TYPE fleet_apply_ok gauge
fleet_apply_ok {int(ok)}
# HELP fleet_apply_owed Steps that it left to roll.
# TYPE fleet_apply_owed gauge
fleet_apply_owed {owed}
NOTE
chmod 644 {TEXTFILES}/apply.prom.new
mv -f {TEXTFILES}/apply.prom.new {TEXTFILES}/apply.prom"""
