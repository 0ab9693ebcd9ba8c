"""Consumers of the queues: one instance of one unit for each queue, each with a configuration of its own.

They serve nobody: a restart leaves their messages in the queue for the moment that it takes, so `apply` restarts them
itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from deploy.model.catalog import DEAD_LETTERS, SERVICES, WORKERS
from deploy.model.fleet import Context
from deploy.model.resources import Account, Directory, File, Only, Package, Phase, Query, Resource, Unit
from deploy.roles import backend, mysql_tls
from deploy.roles.common import certificate
from deploy.roles.rabbitmq_topology import OPERATOR

FOLDER = "/etc/omegaup/worker"
TEMPLATE = "/etc/systemd/system/omegaup-worker@.service"
PDF_PACKAGES = ("python3-gi-cairo", "gir1.2-pango-1.0", "fontconfig", "fonts-noto-core", "fonts-wqy-microhei")
"""Pango and cairo, and fonts for every script: Noto's, and one small font for Chinese, Japanese and Korean."""

QUEUE_TOOL = f"{backend.HOME}/current/bin/omegaup-queue --config /etc/fleet/queues.json"
QUEUE_TOOL_FILE = QUEUE_TOOL.split()[-1]
"""What `fleet queue` runs on a worker's host, as root."""

MAIL_QUEUE = WORKERS["notifications"]
PROMPT = frozenset({WORKERS["analytics"]})
"""Queues whose messages take milliseconds, so that prefetching is worth it. With the others it would save nothing, and
the death of a worker would count against all that it had prefetched (`rabbitmq.delivery_limit`)."""

INSTANCES = Query(
    "workers",
    "units=$(systemctl list-units --all --plain --no-legend 'omegaup-worker@*.service')\n"
    "printf '%s\\n' \"$units\" | awk 'NF { print $1 \"\\t\" $3 }'",
)


def desired(ctx: Context) -> Iterable[Resource]:
    service = SERVICES["worker"]
    if service.identity is None:
        raise LookupError("the catalog gives worker no account")
    account = service.identity.owner
    settings = ctx.settings.worker
    yield from backend.code(ctx)
    for package in PDF_PACKAGES:
        yield Package(name=package)
    yield Account(name=account)
    yield certificate(ctx, "worker")
    yield Directory(path=FOLDER, group=account, mode=0o750)
    yield File(
        path=TEMPLATE,
        content=ctx.render(
            "worker/omegaup-worker@.service.j2", service=service, account=account, config=f"{FOLDER}/%i.json",
            home=backend.HOME, state="", nofile=1024, program="worker",
        ),
    )  # fmt: skip
    for name, queue in WORKERS.items():
        config: dict[str, object] = {
            "queue": queue,
            "rabbitmq": backend.rabbitmq(ctx),
            "mysql": backend.mysql(ctx, "worker", settings.mysql_pool),
            "dead_letters": DEAD_LETTERS,
            "prefetch": settings.prefetch if queue in PROMPT else 1,
            "metrics": {"host": "127.0.0.1", "port": SERVICES["worker"].port(name).number},
            "log": backend.log(settings.log_level),
        }
        if queue == MAIL_QUEUE:
            config["mail"] = {
                "host": settings.mail_relay, "port": settings.mail_port, "tls": settings.mail_tls,
                "sender": settings.mail_sender,
            }  # fmt: skip
        path = f"{FOLDER}/{name}.json"
        yield backend.config_file(path, account, config)
        yield Unit(name=f"omegaup-worker@{name}.service", restart_files=(path, backend.RELEASE_FILE, TEMPLATE))
    yield mysql_tls.insists(ctx, "worker")
    yield File(
        path=QUEUE_TOOL_FILE, mode=0o600, secret=True,
        content=json.dumps({"rabbitmq": backend.rabbitmq(ctx, OPERATOR)}, indent=2) + "\n",
    )  # fmt: skip
    yield Only(
        query=INSTANCES, prefix="omegaup-worker@", phase=Phase.UNITS,
        names=frozenset(f"omegaup-worker@{name}.service" for name in WORKERS),
        act='systemctl disable --now -- "omegaup-worker@$NAME"\n'
        'systemctl reset-failed -- "omegaup-worker@$NAME" 2>/dev/null || true',
    )  # fmt: skip
