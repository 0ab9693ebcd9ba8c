"""The folder of the keys, the CA's certificate and its revocation list, where the spec has them."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Resource, Revocations
from deploy.roles.common import CA_FILE, CRL_FILE


def desired(ctx: Context) -> Iterable[Resource]:
    yield Directory(path=SSL_DIR)
    yield File(path=CA_FILE, content=ctx.authority)
    yield Revocations(
        path=CRL_FILE, content=ctx.revocations, due=ctx.revocations_due,
        check='openssl crl -in "$CANDIDATE" -noout',
    )  # fmt: skip
