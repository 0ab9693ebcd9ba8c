"""Consumers of the queues: one instance of one unit for each queue, each with a configuration of its own.

Only the certificate worker is given the database's password. They serve nobody: a restart leaves their messages in
the queue for the moment that it takes, so `apply` restarts them itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SERVICES, WORKERS
from deploy.model.fleet import Context
from deploy.model.resources import Account, Directory, File, Only, Phase, Query, Resource, Unit
from deploy.roles import backend
from deploy.roles.common import certificate

FOLDER = "/etc/omegaup/worker"
TEMPLATE = "/etc/systemd/system/omegaup-worker@.service"
WITH_DATABASE = frozenset({"ContestQueue"})
"""The queues whose messages end in the database; the worker refuses its password for the others."""

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
            "prefetch": settings.prefetch,
            "metrics": {"host": "127.0.0.1", "port": SERVICES["worker"].port(name).number},
            "log": backend.log(settings.log_level),
        }
        if queue in WITH_DATABASE:
            config["mysql"] = backend.mysql(ctx, "mysql/worker", "worker", settings.mysql_pool)
        path = f"{FOLDER}/{name}.json"
        yield backend.config_file(path, account, config)
        yield Unit(name=f"omegaup-worker@{name}.service", restart_files=(path, backend.RELEASE_FILE, TEMPLATE))
    yield Only(
        query=INSTANCES, prefix="omegaup-worker@", phase=Phase.UNITS,
        names=frozenset(f"omegaup-worker@{name}.service" for name in WORKERS),
        act='systemctl disable --now -- "omegaup-worker@$NAME"\n'
        'systemctl reset-failed -- "omegaup-worker@$NAME" 2>/dev/null || true',
    )  # fmt: skip
