"""The account that operators log in to, and how it becomes root: for inventories that do not log in as root."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Parameter, Phase, Query, Resource

SUDOERS = "/etc/sudoers.d/60-fleet"

ALLOWED = (
    # Whether it may at all.
    "/usr/bin/true",
    # A script on standard input (converge/remote.py), which no process list and no log of sudo's shows.
    "/usr/bin/timeout -k 10 [0-9]* sh -s",
    # What the suite of tests asks.
    "/bin/sh -c *",
    "/usr/bin/sh -c *",
)
"""Commands as sudoers has them: what this program runs. That is root's shell; less than that cannot deploy a host."""


def account(ctx: Context) -> Iterator[Resource]:
    """base.login, unless that is root. One that exists stays as it is.

    The rule of an account that was deployed with before is not taken away: this very run may depend on it.
    """
    login = ctx.settings.base.login
    if login == "root":
        return
    yield Package(name="sudo")
    yield Parameter(
        query=Query("login", f"id -- {login} >/dev/null 2>&1 && printf 'account\\tis there\\n' || true"),
        name="account", want="is there", label=f"login:{login}", phase=Phase.ACCOUNTS,
        # Without a password: it is let in by the operators' keys alone.
        act=f"useradd --create-home --shell /bin/bash -- {login}",
    )  # fmt: skip
    yield File(
        path=SUDOERS, content=ctx.render("base/sudoers.j2", login=login, commands=ALLOWED), mode=0o440,
        check='visudo -cqf "$CANDIDATE"',
    )  # fmt: skip
