"""Stub."""

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource


def desired(ctx: Context) -> Iterable[Resource]:
    return ()


from deploy.model.secrets import SecretSpec

SECRETS = {"rabbitmq/app": SecretSpec("password", "RabbitMQ: the application's user")}
