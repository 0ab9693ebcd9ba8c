"""How the database is rolled: replicas first, then the writes are moved to one of them, then the old primary."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.ways import Gate, View, Way
from deploy.roles import gates
from deploy.roles.draining import drain, undrain
from deploy.roles.mysql_members import CLUSTER, behind, members, standings

SWITCHOVER = "mysql switchover"
"""The procedure that moves the writes (deploy.procedures.db)."""
MAX_LAG = 1.0
"""Seconds that a replica may be behind while a member is out."""


def way(ctx: Context, server: str, agent: str, tool: str) -> Way:
    """tool: the parts of a switchover on one member."""
    here, alone = ctx.host.name, len(ctx.fleet.members("mysql")) == 1
    units = (server, agent)
    # It comes back read-only; without others there is nobody whose word has to be asked.
    lone = f"systemctl daemon-reload\nsystemctl restart {server} 9>&- || true\nstarted {server}\n{tool} open"
    return Way(
        name="mysql", service="mysql", units=units, cluster=CLUSTER, source="mariadb",
        gates=(
            gates.running("mysql", units),
            gates.standing("replication", (CLUSTER,), standings),
            Gate("in step", _behind),
            gates.healthy(), gates.quick(), gates.silent(),
        ),
        drain=() if alone else (drain(ctx, ("mysql-reads",), here),),
        undrain=() if alone else undrain(ctx, ("mysql-reads",), here),
        handed_over_by="" if alone else SWITCHOVER,
        restart={server: lone} if alone else {},
    )  # fmt: skip


def _behind(view: View) -> Iterator[str]:
    if view.leader is None:
        return
    everybody = {one.name: one for one in members(view.ctx.fleet, view.seen)}
    for name, one in everybody.items():
        if name != view.leader and (why := behind(view.seen[name], one, everybody[view.leader], MAX_LAG)):
            yield f"{name}: {why}"
