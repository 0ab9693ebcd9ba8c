"""The one door of a host for whoever watches it: mutual TLS, the role `monitoring`, exactly the paths of the catalog.

Exporters listen on the loopback alone. Few of them can ask for a certificate, and none for a role in it: any
certificate of the fleet would do. Here one HAProxy, beside the one of the clients and apart from it, does both, with
one key pair and one flow a host.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Resource, Unit
from deploy.model.scrapes import MONITORING, Route, routes
from deploy.roles import haproxy, log_store
from deploy.roles.common import CA_FILE, CIPHERS, CRL_FILE, certificate
from deploy.roles.proven import built

UNIT = "fleet-door.service"
CONFIG = "/etc/haproxy/door.cfg"
SOCKET = "/run/fleet-door/admin.sock"
LOG_DELAY = 1500
"""Milliseconds that a request with lines of a journal waits: more than the clocks of hosts may differ."""
OPERATOR = "operator"
"""The role in the certificates of people."""
ALERTS = "/alertmanager/api"
"""Where every Prometheus hands its alerts to the Alertmanager of this host."""


def handed(ctx: Context) -> tuple[Route, ...]:
    """What is written through the door, not read: alerts, on a host that takes them."""
    if not ctx.host.has("alertmanager"):
        return ()
    return (Route(f"{ALERTS}/api/v2/alerts", "/api/v2/alerts", SERVICES["alertmanager"].port("api").number),)


def desired(ctx: Context) -> Iterable[Resource]:
    for package in ("haproxy", "socat"):
        yield Package(name=package)
    if not ctx.host.has("proxy"):
        # The package's own instance: nobody is to be served by it here.
        yield Unit(name="haproxy.service", running=False, enabled=False, masked=True)
    pair = certificate(ctx, "door")
    yield pair
    # Journals come in by the same program, at a port and under a certificate of their own.
    stores = ctx.host == log_store.store(ctx.fleet)
    logs = certificate(ctx, "log-store").certificate_path if ctx.host.has("log-store") else ""
    page = certificate(ctx, "alert-log") if ctx.host.has("alert-log") else None
    if page:
        yield page
    every = [(name, routes_) for name, routes_ in (("GET", routes(ctx.host)), ("POST", handed(ctx))) if routes_]
    build, text = built(
        ctx, "door/door.cfg.j2", address=ctx.host.address, port=SERVICES["door"].port("https").number, socket=SOCKET,
        certificate=pair.certificate_path, ca=CA_FILE, crl=CRL_FILE, ciphers=CIPHERS, role=MONITORING, every=every,
        ports=sorted({route.port for _, found in every for route in found}),
        logs=logs, log_delay=LOG_DELAY, logs_port=SERVICES["log-store"].port("https").number, sender="log-sender",
        store_port=SERVICES["log-store"].port("store").number, senders=log_store.senders(ctx.fleet) if stores else (),
        page=page.certificate_path if page else "", operator=OPERATOR,
        page_port=SERVICES["alert-log"].port("https").number, page_inner=SERVICES["alert-log"].port("http").number,
    )  # fmt: skip
    yield File(
        path=CONFIG, content=text,
        check='said=$(haproxy -c -f "$CANDIDATE" 2>&1) || { printf "%s\\n" "$said"; exit 1; }',
    )  # fmt: skip
    unit = f"/etc/systemd/system/{UNIT}"
    yield File(path=unit, content=ctx.render("door/fleet-door.service.j2", config=CONFIG, socket=SOCKET))
    served = (pair.certificate_path, *filter(None, [logs]), *([page.certificate_path] if page else []))
    yield Unit(name=UNIT, restart_files=(unit,), reload_files=(CONFIG, *served, CA_FILE, CRL_FILE))
    yield from haproxy.loaded(ctx, "door", UNIT, SOCKET, CONFIG, build)
