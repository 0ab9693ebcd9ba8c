"""The real consumer of certificates, and the scripts that run once a day.

The consumer takes its broker's password as an argument only: it is started by a few lines of ours that put the
arguments into the process itself, so that no list of processes shows them. It acknowledges before it works, so a
message is lost with it: what stays `queued` is brought back by hand (docs/upstream.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from deploy.model.fleet import Context
from deploy.model.profiles import CRON, UPSTREAM
from deploy.model.resources import Account, Directory, File, Link, Only, Package, Phase, Query, Resource, Unit
from deploy.roles import upstream_frontend, upstream_release

ACCOUNT = "omegaup-worker"
FOLDER = "/etc/omegaup/worker"
MY_CNF = f"{FOLDER}/my.cnf"
RUN = "/usr/local/lib/fleet/run-script"
TEMPLATE = "/etc/systemd/system/omegaup-worker@.service"
CRON_TEMPLATE = "/etc/systemd/system/omegaup-cron@.service"
TIMERS = Query(
    "cron",
    "units=$(systemctl list-units --all --plain --no-legend 'omegaup-cron@*.timer')\n"
    "printf '%s\\n' \"$units\" | awk 'NF { print $1 \"\\t\" $3 }'",
)


def arguments(ctx: Context) -> list[str]:
    """Of the consumer. Its database comes from a file: with --user as an argument that would not be read."""
    settings = ctx.settings
    user, password = ctx.login(settings.rabbitmq.user, "rabbitmq/app")
    return [
        "--rabbitmq-username", user,
        "--rabbitmq-password", password,
        "--rabbitmq-host", "rabbitmq",
        "--mysql-config-file", MY_CNF,
        "--database", settings.mysql.database,
    ]  # fmt: skip


def desired(ctx: Context) -> Iterable[Resource]:
    site, modules = upstream_frontend.release(ctx), upstream_frontend.python(ctx)
    yield Package(name="python3")
    yield Account(name=ACCOUNT)
    yield Directory(path=FOLDER, group=ACCOUNT, mode=0o750)
    for release in (site, modules):
        yield from upstream_release.unpacked(ctx, release)
        yield upstream_release.switched(ctx, release)
    yield Link(path=upstream_frontend.ROOT, target=site.current)
    yield File(path=RUN, content=ctx.render("upstream/run-script.py.j2"), mode=0o755)
    yield File(
        path=MY_CNF, group=ACCOUNT, mode=0o640, secret=True,
        content=ctx.render(
            "upstream/my.cnf.j2", user="worker", password=ctx.secret("mysql/worker"),
            port=UPSTREAM.port("mysql", "mysql"),
        ),
    )  # fmt: skip
    config = f"{FOLDER}/certificates.json"
    yield _script(config, "stuff/pipelines/client_contest.py", arguments(ctx))
    yield _unit(ctx, TEMPLATE, "omegaUp worker: %i", once=False)
    yield Unit(
        name="omegaup-worker@certificates.service",
        restart_files=(config, MY_CNF, RUN, site.file, modules.file, TEMPLATE),
    )
    yield from _daily(ctx)


def _daily(ctx: Context) -> Iterator[Resource]:
    """On the first of the workers' hosts alone."""
    here = ctx.fleet.members("worker")[0] is ctx.host
    if here:
        yield _unit(ctx, CRON_TEMPLATE, "omegaUp, daily: %i", once=True)
    for name, at in CRON.items():
        if here:
            options = ["--mysql-config-file", MY_CNF, "--database", ctx.settings.mysql.database]
            yield _script(f"{FOLDER}/{name}.json", f"stuff/cron/{name}.py", options)
            timer = f"/etc/systemd/system/omegaup-cron@{name}.timer"
            yield File(path=timer, content=ctx.render("upstream/cron.timer.j2", script=name, at=at))
            yield Unit(name=f"omegaup-cron@{name}.timer")
    timers = frozenset(f"omegaup-cron@{name}.timer" for name in CRON if here)
    yield Only(
        query=TIMERS, prefix="omegaup-cron@", names=timers, phase=Phase.UNITS,
        act='systemctl disable --now -- "omegaup-cron@$NAME"',
    )  # fmt: skip


def _script(path: str, script: str, options: list[str]) -> File:
    content = {"script": f"{upstream_frontend.ROOT}/{script}", "arguments": options}
    return File(
        path=path, content=json.dumps(content, indent=2) + "\n", group=ACCOUNT, mode=0o640, secret=True
    )  # fmt: skip


def _unit(ctx: Context, path: str, description: str, *, once: bool) -> File:
    modules = upstream_frontend.python(ctx).current
    return File(
        path=path,
        content=ctx.render(
            "upstream/script.service.j2", description=description, account=ACCOUNT, run=RUN, folder=FOLDER,
            modules=modules, once=once,
        ),
    )  # fmt: skip
