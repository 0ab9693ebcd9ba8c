"""What a running HAProxy says of itself, through its socket."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.resources import Parameter, Query
from deploy.roles.proven import reloaded


def loaded(ctx: Context, name: str, unit: str, socket: str, config: str, build: str) -> Iterator[Parameter]:
    """That it runs with this build of its configuration (its `description`)."""
    ask = (
        f"info=$(printf 'show info\\n' | socat -t 2 - UNIX-CONNECT:{socket})\n"
        'field() { printf \'%s\\n\' "$info" | sed -n "s/^$1: //p"; }\n'
        "printf 'build\\t%s\\n' \"$(field description)\"\n"
        "began=$(($(date +%s) - $(field Uptime_sec)))\n" + ctx.render("proven/files.sh.j2", files=config)
    )
    yield from reloaded(
        ctx, Query(name, ask, unit), {"build": build}, (config,), unit=unit, seconds=10,
        words=f"journalctl --no-pager -o cat -n 8 -u {unit}",
    )  # fmt: skip
