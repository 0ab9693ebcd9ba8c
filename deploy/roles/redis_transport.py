"""Whether the members of Redis speak TLS among themselves and with their clients: changed while they run.

Sentinel knows members by address and port, so the port is the same with TLS and without, and each member has the one or
the other. A change is therefore one moment for all of them: this role has a place of its own in the order of things,
right before the proxies that dial them. What is connected stays connected, as it is: clients until their proxy's
reload, sentinels until `roll` restarts them. Replicas are made to connect again, one after another; each goes on where
it was.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Parameter, Phase, Resource
from deploy.roles.redis import query
from deploy.roles.redis_cli import client
from deploy.roles.redis_listeners import listeners, record, transport
from deploy.roles.redis_members import INSTANCES, cluster_of


def desired(ctx: Context) -> Iterable[Resource]:
    for instance in INSTANCES:
        cluster, cli, asked = cluster_of(instance), client(ctx.host, instance), query(ctx, instance)
        words = " ".join(f"{name} {shlex.quote(value)}" for name, value in listeners(ctx.host, instance).items())
        yield Parameter(
            query=asked, name="transport", want=transport(ctx.host, instance), label=f"{cluster}: transport",
            at_start=True,
            act=f"echo $(($(date +%s) + 1)) >{record(cluster)}\n{cli} -e CONFIG SET {words} >/dev/null",
        )  # fmt: skip
        yield Parameter(
            query=asked, name="links", want="as it listens", label=f"{cluster}: links of replicas", at_start=True,
            phase=Phase.MEMBERS, act=ctx.render("redis/links.sh.j2", cli=cli, record=record(cluster)),
        )  # fmt: skip
