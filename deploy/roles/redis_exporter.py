"""Figures of Redis and Sentinel: one exporter a host, told with each request which of them to ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.model.secrets import SecretSpec
from deploy.roles.exporters import exporter, listen

USER = "exporter"
COMMANDS = (
    "resetchannels -@all +info +ping +client|setname +slowlog|len +slowlog|get +latency|latest +latency|histogram"
)
SENTINEL_COMMANDS = (
    "resetchannels -@all +info +ping +client|setname +sentinel|masters +sentinel|sentinels +sentinel|slaves "
    "+sentinel|ckquorum"
)
"""What exporter 1.45 sends, seen on the servers. Not CONFIG, whose answer holds the password of the replicas."""

SECRETS: Mapping[str, SecretSpec] = {
    "redis/exporter": SecretSpec("password", "Redis, Sentinel: the exporter, which reads figures only"),
}


def desired(ctx: Context) -> Iterable[Resource]:
    # No instance of its own: without a target in the request it asks nobody.
    yield from exporter(
        ctx, "prometheus-redis-exporter",
        f"-web.listen-address={listen('redis-exporter')} -redis.addr= -config-command=-",
        environment={"REDIS_USER": USER, "REDIS_PASSWORD": ctx.secret("redis/exporter")},
    )  # fmt: skip
