"""Sends the host's journal to the monitoring host, line by line, with a certificate that opens that door alone.

It keeps its place on the disk: what is written while nobody takes it is sent later. The journal stays here as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Account, Directory, File, Package, Resource, Unit
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.log_store import PACKAGE, store

UNIT = "systemd-journal-upload.service"
ACCOUNT = "systemd-journal-upload"
"""The name that the package's unit runs under. It makes the account for each start unless there is one, which then
could not own a key."""
CONFIG = "/etc/systemd/journal-upload.conf.d/60-fleet.conf"


def desired(ctx: Context) -> Iterable[Resource]:
    to = store(ctx.fleet)
    yield Package(name=PACKAGE)
    # Both listen to the whole network, once started; neither is needed.
    for socket in ("systemd-journal-remote.socket", "systemd-journal-gatewayd.socket"):
        yield Unit(name=socket, running=False, enabled=False, masked=True)
    yield Account(name=ACCOUNT)
    pair = certificate(ctx, "log-sender")
    yield pair
    if to is None:
        yield Unit(name=UNIT, running=False, enabled=False)
        return
    url = f"https://{to.name}:{SERVICES['log-store'].port('https').number}"
    yield Directory(path="/etc/systemd/journal-upload.conf.d")
    yield File(
        path=CONFIG,
        content=ctx.render(
            "log-sender/journal-upload.conf.j2", url=url, ca=CA_FILE, certificate=pair.certificate_path,
            key=pair.key_path,
        ),
    )  # fmt: skip
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield File(path=drop_in, content=ctx.render("log-sender/service.conf.j2"))
    yield Unit(name=UNIT, restart_files=(CONFIG, drop_in, pair.certificate_path, CA_FILE), returns=True)
