"""The same resources, written with pyinfra's stock operations: what the engine is measured against.

Only what has a stock operation is in it; running parameters, certificates and queries are not, so it does less.
"""

import sys
from io import StringIO
from pathlib import Path

from pyinfra import host, state
from pyinfra.operations import apt, files, server, systemd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.converge import desired
from deploy.converge.inventory import fleet_of, open_keys
from deploy.model.fleet import Live
from deploy.model.resources import Account, Directory, File, Link, Package, Unit

folder = Path(str(host.data.inventory))
fleet = fleet_of(state.inventory, folder.name)
keys = open_keys(folder)
spec = fleet.host(host.name)
trusted = keys.authorities
context = desired.context(fleet, spec, Live.first_boot(fleet), trusted.bundle, keys.secret, trusted.lists)
wanted = desired.host_state(context)

apt.packages(name="packages", packages=[item.name for item in wanted.resources if isinstance(item, Package)])
for item in host.loop(wanted.resources):
    if isinstance(item, File) and not item.absent and not item.once:
        files.put(
            name=item.key, src=StringIO(item.content), dest=item.path, user=item.owner, group=item.group,
            mode=f"{item.mode:o}", create_remote_dir=False,
        )  # fmt: skip
    elif isinstance(item, Directory):
        files.directory(name=item.key, path=item.path, user=item.owner, group=item.group, mode=f"{item.mode:o}")
    elif isinstance(item, Link):
        files.link(name=item.key, path=item.path, target=item.target, create_remote_dir=False)
    elif isinstance(item, Account):
        server.user(name=item.key, user=item.name, home=item.home, shell=item.shell, create_home=False)
    elif isinstance(item, Unit) and not item.masked:
        systemd.service(name=item.key, service=item.name, running=item.running, enabled=item.enabled or None)
