"""Migrations of the real omegaUp's database: on its own host, once, and not without somebody's word for them.

They run before anything of the judge's is started or switched: on every host the roles of the application come after
the database's. Scripts are not undone, and a script that fails stays half done (db-migrate has no transactions), so a
run that broke off is never gone on with by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Parameter, Phase, Query, Resource, StepClass
from deploy.roles import upstream_frontend, upstream_release

CONFIG = "/etc/fleet/mysql-migrate.cnf"
BEGAN = "/var/lib/fleet/migrating"
"""There while migrations run; what it says is for whoever finds it afterwards."""


def migrations(ctx: Context, sql: str, socket: str, unit: str) -> Iterator[Resource]:
    """As root by the socket: without a password, and the owner of what the scripts make never goes away.

    sql: the client, with the statement after -e.
    """
    site, modules = upstream_frontend.release(ctx), upstream_frontend.python(ctx)
    yield Package(name="python3")
    for release in (site, modules):
        yield from upstream_release.unpacked(ctx, release)
        # Nothing here runs from it; but what is not in use any more goes.
        yield upstream_release.switched(ctx, release)
    yield File(path=CONFIG, content=ctx.render("upstream/migrate.cnf.j2", socket=socket), mode=0o600)
    digest = site.artifacts[0].sha256
    values = {
        "release": site, "modules": modules.target, "file": CONFIG, "database": ctx.settings.mysql.database,
        "read": ctx.settings.upstream.migrations_read == digest, "sha256": digest, "sql": sql, "began": BEGAN,
    }  # fmt: skip
    query = Query("migrations", ctx.render("upstream/migrations.sh.j2", act=False, **values), unit)
    yield Parameter(
        query=query, name="migrations", want="done", step=StepClass.WRITE, phase=Phase.MEMBERS, label="migrations",
        act=ctx.render("upstream/migrations.sh.j2", act=True, **values),
    )  # fmt: skip
