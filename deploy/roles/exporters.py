"""What the exporters of Debian's packages have in common: arguments in one file, the loopback, a restart by apply.

They serve nobody but Prometheus, which misses one scrape, so `apply` restarts them itself. None is reached from
another host but through its host's door (see door.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Resource, Unit

ACCOUNT = "prometheus"
"""Made by Debian's packages, which run Prometheus and every exporter as it."""


def listen(service: str, port: str = "exporter") -> str:
    return f"127.0.0.1:{SERVICES[service].port(port).number}"


def exporter(
    ctx: Context,
    package: str,
    arguments: str,
    *,
    environment: Mapping[str, str] | None = None,
    memory: str = "64M",
    after: str = "",
    clock: bool = False,
    files: tuple[str, ...] = (),
) -> Iterator[Resource]:
    """An exporter whose unit is called as its package.

    arguments: without spaces in any of them: systemd splits at each. environment: secrets included; only root reads it.
    memory: more than this, and the kernel ends it rather than what it watches. after: a unit to start behind. clock: it
    reads how the clock is kept. files: others that it reads at its start.
    """
    unit = f"{package}.service"
    defaults, drop_in = f"/etc/default/{package}", f"/etc/systemd/system/{unit}.d/60-fleet.conf"
    given = dict(environment or {})
    yield Package(name=package)
    yield File(
        path=defaults, mode=0o600, secret=bool(given),
        content=ctx.render("exporters/default.j2", arguments=arguments, environment=given),
    )  # fmt: skip
    yield Directory(path=f"/etc/systemd/system/{unit}.d")
    yield File(path=drop_in, content=ctx.render("exporters/service.conf.j2", memory=memory, after=after, clock=clock))
    yield Unit(name=unit, restart_files=(defaults, drop_in, *files))
