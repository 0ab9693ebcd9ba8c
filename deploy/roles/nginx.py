"""nginx of the web hosts: one configuration that includes nothing, and what nginx itself says it runs with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Query, Resource, Unit
from deploy.roles import php
from deploy.roles.common import confined
from deploy.roles.proven import built, reloaded

CONFIG = "/etc/nginx/nginx.conf"
UNIT = "nginx.service"
STATUS = "/fleet/nginx"


def nginx(
    ctx: Context, root: str, template: str, values: Mapping[str, Any], files: tuple[str, ...]
) -> Iterator[Resource]:
    """nginx in front of PHP-FPM. root: the document root; values: the template's own; files: others that it loads."""
    settings = ctx.settings
    # A connection of a client and one to PHP, and the logs.
    nofile = 2 * settings.frontend.worker_connections + 512
    build, text = built(
        ctx, template, nofile=nofile, connections=settings.frontend.worker_connections,
        of_one=settings.frontend.of_one_address,
        read_timeout=php.request_limits(ctx)[2], body_max=settings.frontend.body_max, root=root,
        backlog=settings.base.somaxconn, socket=php.SOCKET, status=php.STATUS, nginx_status=STATUS,
        status_socket=php.STATUS_SOCKET, **values,
    )  # fmt: skip
    yield Package(name="nginx")
    yield Package(name="logrotate")
    yield File(path=CONFIG, content=text, check='nginx -t -q -c "$CANDIDATE"')
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    loaded = (CONFIG, *files)
    limit = max(nofile, settings.base.service_nofile)
    yield File(path=drop_in, content=ctx.render("frontend/nginx.service.conf.j2", nofile=limit))
    yield confined(ctx, UNIT, "frontend/nginx.sandbox.conf.j2")
    yield Unit(name=UNIT, rolling=True, restart_files=(drop_in,), reload_files=loaded)
    yield from reloaded(
        ctx, Query("nginx", ctx.render("frontend/ask-nginx.sh.j2", files=" ".join(loaded)), UNIT),
        {"build": build, "nofile": str(nofile)}, loaded, unit=UNIT, seconds=5,
        words="grep emerg /var/log/nginx/error.log | tail -n 2",
    )  # fmt: skip
