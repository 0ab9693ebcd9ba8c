"""The reference runner, and the sandbox in which it has submissions executed.

The runner itself may do nothing of the sort: it connects to a socket, and systemd makes a box of each connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deploy.model.fleet import Context
from deploy.model.resources import Account, Directory, File, Package, Resource, Unit
from deploy.model.ways import Way
from deploy.roles import backend

SANDBOX = "omegaup-sandbox"
SOCKET_UNIT = f"{SANDBOX}.socket"
SOCKET = f"/run/{SANDBOX}.sock"
FOLDER = f"/var/lib/{SANDBOX}"
"""Where a box has its file system in memory; on the host itself it stays empty."""

BOX_SECONDS = 900
"""After which a box is ended whatever it does. Far beyond what its own limits allow."""

COMPILERS = {"c11-gcc": ("gcc", "libc6-dev"), "cpp17-gcc": ("g++",), "py3": ("python3",)}


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.runner
    config = {
        "listen": backend.listen("runner", "https"),
        "tls": backend.tls("runner"),
        "name": ctx.host.name,
        "slots": settings.slots,
        "judge": settings.judge,
        "sandbox": {"socket": SOCKET},
        "grader": {"url": backend.url("grader", "runners")},
        "log": backend.log(settings.log_level),
    }
    yield from backend.service(ctx, "runner", config)
    yield from _sandbox(ctx)


def _sandbox(ctx: Context) -> Iterator[Resource]:
    settings = ctx.settings.runner
    for language in settings.languages:
        for package in COMPILERS[language]:
            yield Package(name=package)
    yield Account(name=SANDBOX)
    yield Directory(path=FOLDER)
    yield File(
        path=f"/etc/systemd/system/{SOCKET_UNIT}",
        content=ctx.render(
            f"runner/{SOCKET_UNIT}.j2", socket=SOCKET, account=backend.owner("runner"), slots=settings.slots
        ),
    )
    # Read by systemd for each box anew: a change holds from the next one on.
    yield File(
        path=f"/etc/systemd/system/{SANDBOX}@.service",
        content=ctx.render(
            f"runner/{SANDBOX}@.service.j2", home=backend.HOME, account=SANDBOX, folder=FOLDER, socket=SOCKET,
            seconds=BOX_SECONDS, memory=settings.sandbox_memory, disk=settings.sandbox_disk,
            without=settings.sandbox_without,
        ),
    )  # fmt: skip
    yield Unit(name=SOCKET_UNIT)


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(ctx, "runner")
