"""The folder of the keys and the CA's certificate, where the spec has them."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Resource
from deploy.roles.common import CA_FILE


def desired(ctx: Context) -> Iterable[Resource]:
    yield Directory(path=SSL_DIR)
    yield File(path=CA_FILE, content=ctx.authority)
