"""What the reference services have in common: their code, account, configuration and unit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import (
    Account,
    Directory,
    File,
    Package,
    Parameter,
    Phase,
    Query,
    Resource,
    StepClass,
    Unit,
)
from deploy.model.ways import Way
from deploy.roles import gates, mysql_tls
from deploy.roles.common import CA_FILE, CRL_FILE, certificate, pair

HOME = "/opt/omegaup/services"
RELEASE_FILE = f"{HOME}/release"
"""Holds the hash of the installed release; units that have loaded another are owed a restart."""

PACKAGES = (
    "python3-pip", "python3-setuptools", "python3-wheel", "python3-aiohttp", "python3-pika", "python3-pymysql",
    "python3-prometheus-client", "python3-redis", "python3-cryptography",
)  # fmt: skip


def release(ctx: Context) -> tuple[str, Mapping[str, bytes]]:
    """(hash, files) of the services' Python package."""
    files = {
        path: content
        for path, content in ctx.files("services").items()
        if path.endswith((".py", "pyproject.toml", "README.md"))
    }
    digest = hashlib.sha256(b"recipe 3")
    for path, content in files.items():
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16], files


def code(ctx: Context) -> Iterator[Resource]:
    """The package in a virtual environment of its own, beside earlier releases; one link says which is in use."""
    name, files = release(ctx)
    for package in PACKAGES:
        yield Package(name=package)
    source = f"{HOME}/source"
    yield Directory(path="/opt/omegaup")
    yield Directory(path=HOME)
    folders = sorted({str(path.rpartition("/")[0]) for path in files} - {""})
    for folder in ("", *folders):
        yield Directory(path=f"{source}/{folder}".rstrip("/"))
    for path, content in files.items():
        yield File(path=f"{source}/{path}", content=content.decode(), phase=Phase.ACCOUNTS)
    target, build = f"{HOME}/releases/{name}", f"{HOME}/.build"
    query = Query("services", f"printf 'release\\t%s\\n' \"$(cat {RELEASE_FILE} 2>/dev/null || true)\"")
    yield Parameter(
        query=query, name="release", want=name, step=StepClass.WRITE, phase=Phase.FILES, label="services: release",
        writes=(RELEASE_FILE,),
        act=f"""\
if [ ! -e {target}/.complete ]; then
  rm -rf -- {target} {build}
  # Without a pip of its own, which costs more than all the rest.
  python3 -m venv --without-pip --system-site-packages {target}
  # Built elsewhere: setuptools would leave a build folder in the source and put old modules into later releases.
  cp -r {source} {build}
  rm -rf -- {build}/build {build}/*.egg-info
  pip --python {target}/bin/python3 install -q --no-deps --no-index --no-build-isolation --no-compile {build}
  rm -rf -- {build}
  {target}/bin/python3 -m compileall -q {target}/lib
  test -x {target}/bin/omegaup-grader
  touch {target}/.complete
fi
ln -sfn {target} {HOME}/.current && mv -fT {HOME}/.current {HOME}/current
printf '{name}\\n' >{RELEASE_FILE}.new && mv -f {RELEASE_FILE}.new {RELEASE_FILE}""",
    )  # fmt: skip


def owner(name: str) -> str:
    """The account that a service runs as."""
    identity = SERVICES[name].identity
    if identity is None:
        raise LookupError(f"the catalog gives {name} no identity")
    return identity.owner


def service(
    ctx: Context,
    name: str,
    config: Mapping[str, object],
    *,
    state_directory: bool = False,
    nofile: int = 8192,
) -> Iterator[Resource]:
    """One backend: account, key pair, configuration, unit."""
    catalogued = SERVICES[name]
    account = owner(name)
    pair = certificate(ctx, name)
    unit = catalogued.units[0]
    path = f"/etc/omegaup/{name}/config.json"
    yield from code(ctx)
    yield Account(name=account)
    yield Directory(path=f"/etc/omegaup/{name}", group=account, mode=0o750)
    yield pair
    yield config_file(path, account, config)
    yield File(
        path=f"/etc/systemd/system/{unit}",
        content=ctx.render(
            f"{name}/{unit}.j2", service=catalogued, account=account, config=path, home=HOME,
            state=f"omegaup/{name}" if state_directory else "", nofile=nofile,
        ),
    )  # fmt: skip
    yield Unit(
        name=unit,
        rolling=True,
        restart_files=(path, RELEASE_FILE, f"/etc/systemd/system/{unit}"),
        reload_files=(pair.certificate_path, CA_FILE, CRL_FILE),
    )


RELEASE_BACK = f"""\
name=$(cat {RELEASE_FILE})
[ -x {HOME}/releases/$name/bin/omegaup-grader ] || {{ echo "release $name is no longer here"; exit 1; }}
ln -sfn {HOME}/releases/$name {HOME}/.current && mv -fT {HOME}/.current {HOME}/current"""
"""The link again as the file says."""


def ways(ctx: Context, name: str) -> Iterator[Way]:
    """A backend ends well when it is told to: it takes no more, finishes what is in hand, and goes."""
    for unit in SERVICES[name].units_on(ctx.release):
        yield Way(
            name=unit.removesuffix(".service"), service=name, units=(unit,), gates=gates.usual(name, (unit,)),
            after_back=RELEASE_BACK,
        )  # fmt: skip


def config_file(path: str, account: str, config: Mapping[str, object]) -> File:
    return File(
        path=path, content=json.dumps(config, indent=2, sort_keys=True) + "\n", group=account, mode=0o640,
        secret="password" in json.dumps(config),
    )  # fmt: skip


def tls(name: str) -> dict[str, str]:
    shown, key = pair(name)
    return {"certificate": shown, "key": key, "ca": CA_FILE, "crl": CRL_FILE}


def listen(name: str, port: str) -> dict[str, object]:
    # The firewall decides who may connect.
    return {"host": "0.0.0.0", "port": SERVICES[name].port(port).number}  # noqa: S104  # nosec B104


def mysql(ctx: Context, name: str, pool: int) -> dict[str, object]:
    """name: of the service, which is its user's as well."""
    return {
        "host": "mysql", "port": SERVICES["mysql"].port("mysql").number, "user": name,
        "password": ctx.secret(f"mysql/{name}"), "database": ctx.settings.mysql.database, "pool_size": pool,
        **mysql_tls.client(ctx, name),
    }  # fmt: skip


def rabbitmq(ctx: Context, user: str = "") -> dict[str, object]:
    """user: the application's own unless it is said; its password is the secret of its name."""
    name, password = ctx.login(user or ctx.settings.rabbitmq.user, f"rabbitmq/{user or 'app'}")
    return {
        "host": "rabbitmq", "port": SERVICES["rabbitmq"].port("amqp").number, "user": name, "password": password,
        "virtual_host": ctx.settings.rabbitmq.vhost,
    }  # fmt: skip


def redis(ctx: Context) -> dict[str, object]:
    return {
        "host": "redis", "port": SERVICES["redis"].port("cache").number, "user": "app",
        "password": ctx.secret("redis/app"),
    }  # fmt: skip


def log(level: str) -> dict[str, str]:
    return {"level": level, "format": "text"}


def url(name: str, port: str = "https") -> str:
    return f"https://{name}:{SERVICES[name].port(port).number}"
